"""Pools of several processes beside those of one, in `ls`, `top`, `why`, `resize`, `export`: their file is their page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool import Objects, Pool, watch
from mempool.cli.app import mempool as command
from mempool.export import Totals
from mempool.shared import listing
from mempool.shared.engine import SharedEngine
from mempool.watch import shared_pools


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


def test_a_broken_file_is_a_row_that_says_so(shared: SharedEngine, folder: Path) -> None:
    (folder / "broken").write_bytes(b"\x1b[31m" * 1000)
    (row,) = [row for row in shared_pools.rows() if row.pool == "broken"]
    assert row.figures is None
    assert row.why.startswith("unreadable")
    assert row.why.isprintable()
