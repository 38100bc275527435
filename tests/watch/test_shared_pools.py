"""Pools of several processes beside those of one, in `ls`, `top`, `why`, `resize`, `export`: their file is their page."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from terminals import OnTerminal

from mempool import Objects, Pool, PoolTimeout, SharedPool, watch
from mempool.cli.app import mempool as command
from mempool.engine import UnexpectedReserveError
from mempool.export import Totals
from mempool.shared import listing
from mempool.shared.engine import SharedEngine
from mempool.watch import shared_pools
from mempool.watch.directory import WatchError
from mempool.web.sampling import Sampler
from mempool.web.server import handler_for


@pytest.fixture
def shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SharedEngine]:
    """One of six elements, in the folder in which pages lie as well."""
    monkeypatch.setenv("MEMPOOL_SHARED_FOLDER", str(folder))
    folder.mkdir(mode=0o700)
    engine = SharedEngine.create(folder / "tiles", size=4096, slots=16, reserve=6)
    try:
        yield engine
    finally:
        engine.detach()


def called(*arguments: str) -> str:
    ended = CliRunner().invoke(command, arguments, standalone_mode=False)
    if ended.exception is not None:
        raise ended.exception
    return ended.output


def test_a_shared_pool_is_a_row_beside_the_others(shared: SharedEngine) -> None:
    watch.publish()
    pool = Pool(Objects(object), 2, name="frames")
    held = shared.take()
    lines = called("ls").splitlines()
    row = next(line for line in lines if line.startswith("tiles"))
    assert row.split()[:7] == ["tiles", "1", "process", "shared", "6", "6", "1"]
    assert any(line.startswith("frames") for line in lines)
    assert "tiles" in called("top", "--once")
    document: dict[str, Any] = json.loads(called("ls", "--json"))
    (entry,) = [entry for entry in document["pools"] if entry["pool"] == "tiles"]
    assert (entry["stats"]["reserve"], entry["stats"]["out"], entry["element_bytes"]) == (6, 1, 4096)
    assert 'mempool_reserve_elements{pool="tiles",process="1 process"} 6' in Totals().text()
    assert held is not None
    shared.give([held])
    del pool


def test_they_are_looked_for_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody says where that is."""
    monkeypatch.delenv("MEMPOOL_SHARED_FOLDER", raising=False)
    assert shared_pools.folder() == str(listing.folder())


@pytest.mark.long_on_both
def test_top_resizes_a_shared_pool_and_says_why(shared: SharedEngine) -> None:
    """With the number that the user saw as what is expected; and the terminal is in use throughout."""
    with OnTerminal("-m", "mempool", "top", "--interval", "0.1") as terminal:
        terminal.shows(lambda lines: any(line.startswith("tiles") for line in lines))
        terminal.type("\r")
        terminal.shows(lambda lines: "pool 'tiles': 6 promised" in "".join(lines))
        terminal.type("r")
        terminal.shows(lambda lines: "reserve of tiles@shared, 6 now" in lines[-1])
        terminal.type("8\r")
        terminal.shows(lambda lines: "tiles@shared: 8 promised, 0 unfunded" in "".join(lines))
        assert shared.snapshot().reserve == 8
        terminal.type("r")
        terminal.shows(lambda lines: "8 now" in lines[-1])
        shared.change(9, None, None)
        terminal.type("4\r")
        terminal.shows(lambda lines: "the reserve is 9 and not 8" in "".join(lines))
        terminal.shows(lambda lines: any(re.match(r"tiles +1 process shared +9 ", line) for line in lines))
        terminal.type("r")
        terminal.shows(lambda lines: "9 now" in lines[-1])
        terminal.type("99\r")
        terminal.shows(lambda lines: "not reserve=99" in "".join(lines))
        terminal.type("q")
        assert terminal.ended() == 0
    assert shared.snapshot().reserve == 9
    assert len(shared.clients()) == 1, "top is gone again"


@pytest.mark.long_on_both
def test_top_stays_small_beside_a_shared_pool(shared: SharedEngine) -> None:
    """At most 16 MiB, with none of the pools' modules; also once it has asked why, and resized: both are done in a child.

    On CPython 3.15, whose own modules are larger, 17.
    """
    watch.publish()
    pools = [Pool(Objects(object), 1, name=f"pool {number}") for number in range(90)]
    with OnTerminal("-m", "mempool", "top", "--interval", "0.1", lines=110) as terminal:
        terminal.shows(lambda lines: {"tiles", "pool 89"} <= {line[:12].rstrip() for line in lines})
        terminal.type("/tiles\r")
        terminal.shows(lambda lines: "pool 89" not in "".join(lines) and "tiles" in "".join(lines))
        terminal.type("\r")
        terminal.shows(lambda lines: "pool 'tiles': 6 promised" in "".join(lines))
        terminal.type("r")
        terminal.shows(lambda lines: "6 now" in lines[-1])
        terminal.type("7\r")
        terminal.shows(lambda lines: "tiles@shared: 7 promised, 0 unfunded" in "".join(lines))
        status = Path(f"/proc/{terminal.process.pid}/status").read_text()
        resident = int(status.split("VmHWM:")[1].split()[0])  # at its highest
        print(f"{resident / 1024:.1f} MiB")
        assert resident <= (16 if sys.version_info < (3, 15) else 17) * 1024
        assert "fast_path" not in Path(f"/proc/{terminal.process.pid}/maps").read_text()
        terminal.type("q")
        assert terminal.ended() == 0
    del pools


def test_what_its_processes_have_counted_is_shown(shared: SharedEngine) -> None:
    """How many elements each origin gave, and how long was waited: as the pool's own statistics say it."""
    name = shared.path.name
    with SharedPool.attach(name) as pool:
        for _ in range(5):
            with pool.lease():
                pass
        held = pool.alloc_many(16)
        with pytest.raises(PoolTimeout):
            pool.alloc(timeout=0)
        own = pool.stats()
        (entry,) = [entry for entry in json.loads(called("ls", "--json"))["pools"] if entry["pool"] == name]
        told = json.loads(json.dumps(own.as_dict()))
        assert own.served_from_spare + own.served_from_reserve + own.served_from_source == 21
        assert sum(waits for _, waits in own.wait_histogram) == 1
        assert {field: entry["stats"][field] for field in told} == told
        pool.free_many(held)


def test_web_resizes_a_shared_pool(shared: SharedEngine) -> None:
    sampler = Sampler()
    sampler.look(1.0)
    (key,) = [pool["key"] for pool in sampler.report("", 0.0)["pools"]]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(sampler, "token", may_steer=True))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def resized(reserve: Any, expect: Any) -> tuple[int, dict[str, Any]]:
        connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
        try:
            body = json.dumps({"pool": key, "reserve": reserve, "expect": expect})
            connection.request("POST", "/resize", body, {"X-Mempool-Token": "token"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    try:
        assert resized(8, 6) == (200, {"promised": 8, "spare": 8, "unfunded": 0})
        status, told = resized(4, 6)
        assert (status, "the reserve is 8 and not 6" in told["error"]) == (409, True)
        for nonsense in ("9", -1, True, None, 2.5, 99):
            assert resized(nonsense, 8)[0] == 409
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert shared.snapshot().reserve == 8


def test_a_page_is_no_shared_pool(shared: SharedEngine) -> None:
    watch.publish(steer=True)
    pool = Pool(Objects(object), 2, name="frames")
    assert listing.names() == ["tiles"]
    del pool


def test_why_and_resize_know_shared_pools(shared: SharedEngine) -> None:
    assert "6 promised" in called("why", "tiles")
    assert "tiles@shared: 8 promised (was 6)" in called("resize", "tiles@shared", "--reserve", "8")
    assert shared.snapshot().reserve == 8
    assert "9 promised" in called("resize", "tiles", "--reserve", "9", "--expect", "8")
    with pytest.raises(Exception, match="the reserve is 9 and not 8"):
        called("resize", "tiles", "--reserve", "4", "--expect", "8")
    assert shared.snapshot().reserve == 9


def test_what_is_expected_of_a_shared_pool_is_compared_in_the_change_itself(shared: SharedEngine) -> None:
    """Another process resizes it after this one has looked, in the last moment before it changes anything."""
    check = shared._targets
    others = [lambda: shared.change(7, None, None)]

    def interfered(*targets: Any) -> tuple[int, int, int]:
        while others:
            others.pop()()
        return check(*targets)

    shared._targets = interfered  # type: ignore[method-assign]
    with pytest.raises(UnexpectedReserveError, match="the reserve is 7 and not 6"):
        shared.change(9, None, None, expect=6)
    assert shared.snapshot().reserve == 7
    assert shared.change(None, None, 12, expect=7).limit == 12


def test_a_broken_file_is_a_row_that_says_so(shared: SharedEngine, folder: Path) -> None:
    (folder / "broken").write_bytes(b"\x1b[31m" * 1000)
    (row,) = [row for row in shared_pools.rows() if row.pool == "broken"]
    assert row.figures is None
    assert row.why.startswith("unreadable")
    assert row.why.isprintable()


@pytest.mark.parametrize("error", [OSError("no such file"), ValueError("no name"), MemoryError("none left")])
def test_a_pool_that_cannot_be_looked_at_is_told_by_name(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def look(_name: str) -> None:
        raise error

    monkeypatch.setattr("mempool.shared.listing.look", look)
    with pytest.raises(WatchError, match=f"the shared pool 'frames' cannot be looked at: {error}"):
        shared_pools.why("frames")
