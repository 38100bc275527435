"""What `mempool export` and `mempool web` have in common: an address to listen on, a server that ends well."""

from __future__ import annotations

import signal
import threading
from http.server import ThreadingHTTPServer
from typing import Any

import click

#: Seconds for which a client may be silent, and how many are served at once.
PATIENCE, AT_ONCE = 10.0, 32


def address(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """HOST:PORT, as a callback of an option."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise click.BadParameter(f"HOST:PORT, 127.0.0.1:9464 for example, not {value!r}")
    return host.strip("[]"), int(port)


class Server(ThreadingHTTPServer):
    """Answers so many at once, each in a thread, and cuts off who sends nothing: anybody may connect."""

    daemon_threads = True

    def __init__(self, where: tuple[str, int], handler: Any) -> None:
        super().__init__(where, type("PatientHandler", (handler,), {"timeout": PATIENCE}))
        self._room = threading.Semaphore(AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread, if one more may be begun."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The whole of one request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()


def listen(where: tuple[str, int], handler: Any) -> ThreadingHTTPServer:
    """A server at this address. Raises ClickException where it cannot be had."""
    try:
        server = Server(where, handler)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {where[0]}:{where[1]}: {error.strerror or error}") from None
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
