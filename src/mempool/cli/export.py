"""`mempool export`: the figures of all pools of this user for Prometheus."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler

import click

from mempool.cli.serving import address, listen, serve
from mempool.export.families import Totals
from mempool.watch import WatchError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@click.command(short_help="Serve the figures of all pools to Prometheus.")
@click.option(
    "--listen", "where", metavar="HOST:PORT", callback=address, help="Serve them at /metrics.  [default: write them once]"
)
def export(*, where: tuple[str, int] | None) -> int:
    """Serve the figures of the pools of all processes of this user that show them, as Prometheus reads them.

    Reads what they have written: it works beside any server, also one of many processes (gunicorn), and of a process that
    hangs. Processes of one program are added up, and a counter does not fall when one of them ends. The status is 0.
    """
    totals = Totals()
    try:
        text = totals.text()
    except WatchError as error:
        raise click.ClickException(str(error)) from None
    if where is None:
        click.echo(text, nl=False)
        return 0
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] not in {"/metrics", "/"}:
                self.send_error(404)
                return
            try:
                with one_at_a_time:
                    body = totals.text().encode()
            except OSError as error:
                self.send_error(503, explain=str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A scrape a second is no news."""

    server = listen(where, Handler)
    click.echo(f"serving http://{server.server_address[0]!s}:{server.server_address[1]}/metrics")
    serve(server)
    return 0
