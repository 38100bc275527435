"""What `mempool export` and `mempool web` have in common: an address to listen on, a server that ends well."""

from __future__ import annotations

import signal
from http.server import ThreadingHTTPServer
from typing import Any

import click


def address(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """HOST:PORT, as a callback of an option."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise click.BadParameter(f"HOST:PORT, 127.0.0.1:9464 for example, not {value!r}")
    return host.strip("[]"), int(port)


def listen(where: tuple[str, int], handler: Any) -> ThreadingHTTPServer:
    """A server at this address. Raises ClickException where it cannot be had."""
    try:
        server = ThreadingHTTPServer(where, handler)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {where[0]}:{where[1]}: {error.strerror or error}") from None
    server.daemon_threads = True
    return server


def serve(server: ThreadingHTTPServer) -> None:
    """Answer until the process is asked to end."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(0 if number == signal.SIGTERM else 130)

    signal.signal(signal.SIGTERM, end)
    try:
        server.serve_forever(poll_interval=0.1)
    finally:
        server.server_close()
