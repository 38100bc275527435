"""`mempool web`: one page with plots of the last ten minutes, served to this machine's own browsers."""

from __future__ import annotations

import secrets

import click

from mempool.cli.serving import listen, serve
from mempool.web.sampling import Sampler
from mempool.web.server import handler_for


@click.command(short_help="Show the last ten minutes of all pools.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="any free one", help="Of 127.0.0.1.")
@click.option("--steer", is_flag=True, help="Let the page resize pools, too.")
def web(*, port: int, steer: bool) -> int:
    """Serve one page on 127.0.0.1 that shows the pools of all processes of this user: four plots of the last ten minutes.

    Open the address that is written: it ends in a token, without which nothing is shown. The page needs nothing from any
    network. Without --steer it changes nothing.
    """
    sampler = Sampler()
    token = secrets.token_urlsafe(24)
    server = listen(("127.0.0.1", port), handler_for(sampler, token, may_steer=steer))
    sampler.start()
    click.echo(f"http://127.0.0.1:{server.server_address[1]}/#{token}")
    try:
        serve(server)
    finally:
        sampler.stop()
    return 0
