"""The server of the page: on this machine's own address, for whoever has its token, and read-only unless it may steer.

A page of another site can send requests here from the user's browser. So: the Host must be this server's (a name that was
made to point here is not), an Origin, if there is one, too, and figures and steering need the token, which no other site
knows. It is in the fragment of the address, which browsers send to nobody; the page sends it in a header.
"""

from __future__ import annotations

import hmac
import json
import secrets
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mempool.watch import client, shared_pools
from mempool.watch.directory import WatchError
from mempool.web.sampling import Sampler

BODY_MAX = 4096


def page_of(nonce: str, *, may_steer: bool) -> bytes:
    """The page, with all that it needs."""
    here = files("mempool.web")
    text = (here / "page.html").read_text("utf-8")
    parts = {
        "/*uplot.css*/": (here / "uplot.css").read_text("utf-8"),
        "/*uplot.js*/": (here / "uplot.js").read_text("utf-8"),
        "/*page.js*/": (here / "page.js").read_text("utf-8"),
        "{nonce}": nonce,
        "{steer}": "yes" if may_steer else "no",
    }
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text.encode()


class Handler(BaseHTTPRequestHandler):
    """One request. The class attributes are set by `handler_for`."""

    sampler: Sampler
    token: str
    may_steer: bool
    server_version = "mempool"
    sys_version = ""

    # -- who may

    def _is_own(self, host: str) -> bool:
        address: Any = self.server.server_address
        port = address[1]
        return host in {f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"}

    def _may(self, *, with_token: bool) -> bool:
        if not self._is_own(self.headers.get("Host", "")):
            self._refuse(403, "this server answers to its own name only")
            return False
        origin = self.headers.get("Origin")
        if origin is not None and not (origin.startswith("http://") and self._is_own(origin.removeprefix("http://"))):
            self._refuse(403, "a page of another site may not ask here")
            return False
        given = self.headers.get("X-Mempool-Token", "")
        if with_token and not hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode()):
            self._refuse(403, "the token is wrong: open the address that `mempool web` has written")
            return False
        return True

    # -- what

    def do_GET(self) -> None:
        """The page, or its figures."""
        address = urlsplit(self.path)
        if address.path == "/" and self._may(with_token=False):
            nonce = secrets.token_urlsafe(16)
            policy = (
                f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; connect-src 'self'; "
                "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
            self._answer(page_of(nonce, may_steer=self.may_steer), "text/html; charset=utf-8", policy)
        elif address.path == "/data" and self._may(with_token=True):
            query = parse_qs(address.query)
            try:
                since = float(query.get("since", ["0"])[0])
            except ValueError:
                self._refuse(400, "since is a number")
                return
            self._json(self.sampler.report(query.get("pool", [""])[0], since))
        elif address.path not in {"/", "/data"}:
            self._refuse(404, "there is nothing here")

    def do_POST(self) -> None:
        """A resize."""
        if urlsplit(self.path).path != "/resize":
            self._refuse(404, "there is nothing here")
        elif self._may(with_token=True):
            if not self.may_steer:
                self._refuse(403, "this server only shows; run `mempool web --steer` to resize")
                return
            try:
                length = int(self.headers.get("Content-Length", ""))
                request: Any = json.loads(self.rfile.read(length).decode("utf-8")) if 0 < length <= BODY_MAX else {}
                name, reserve, expect = (request[key] for key in ("pool", "reserve", "expect"))
            except (ValueError, KeyError, TypeError, RecursionError):
                self._refuse(400, "a resize is an object with pool, reserve and expect")
                return
            self._resize(str(name), reserve, expect)

    def _resize(self, name: str, reserve: Any, expect: Any) -> None:
        row = self.sampler.row(name)
        if row is not None and row.where == shared_pools.WHERE:
            self._resize_shared(row.pool, reserve, expect)
            return
        page = None if row is None else self.sampler.here.page_of(row)
        if row is None or page is None or not page.has_socket:
            self._refuse(409, "the process of this pool takes no commands: run it with MEMPOOL_WATCH=steer")
            return
        try:
            answer = client.ask(page.socket_path, "resize", patience=10.0, number=row.number, reserve=reserve, expect=expect)
        except (client.NoAnswerError, client.RefusedError) as error:
            self._refuse(409, str(error))
            return
        self._json(answer)

    def _resize_shared(self, name: str, reserve: Any, expect: Any) -> None:
        """As `mempool resize` does: no process is asked, this one changes the pool's file."""
        if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in (reserve, expect)):
            self._refuse(409, f"a reserve is a whole number, 0 or more, not {reserve!r}"[:200])
            return
        try:
            _, now = shared_pools.resize(name, reserve, keep=None, limit=None, expect=expect)
        except WatchError as error:
            self._refuse(409, str(error))
            return
        self._json({"promised": now.reserve, "spare": now.spare, "unfunded": now.unfunded})

    # -- how

    def _json(self, value: Any) -> None:
        self._answer(json.dumps(value, allow_nan=False).encode(), "application/json")

    def _answer(self, body: bytes, kind: str, policy: str = "default-src 'none'", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", policy)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, why: str) -> None:
        self._answer(json.dumps({"error": why}).encode(), "application/json", status=status)

    def log_message(self, *_: object) -> None:
        """A look a second is no news."""


def handler_for(sampler: Sampler, token: str, *, may_steer: bool) -> type[Handler]:
    """A class of handlers that know these."""
    return type("BoundHandler", (Handler,), {"sampler": sampler, "token": token, "may_steer": may_steer})
