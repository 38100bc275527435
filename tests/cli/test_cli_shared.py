"""The commands for pools that several processes share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from collections.abc import Iterator

from folders import folder_on_tmpfs
from shared_children import Parent, child

from mempool.cli.app import run
from mempool.shared import listing, words
from mempool.shared.layout import Layout
from mempool.shared.pool import SharedPool

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with folder_on_tmpfs() as made:
        monkeypatch.setenv("MEMPOOL_SHARED_FOLDER", str(made))
        yield made


def hold(parent: Parent) -> None:
    held = SharedPool.attach("frames").alloc_many(2)
    parent.tell(len(held))
    parent.wait()


def test_what_a_killed_process_held_is_reaped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the words agree before and after."""
    pool = SharedPool("frames", size=4096, reserve=2, limit=4)
    with child(hold) as process:
        assert process.hear() == 2
        assert run(["verify", "frames"]) == 0
        process.end(signal.SIGKILL)
    assert pool.out == 2
    assert run(["reap", "frames"]) == 0
    assert run(["verify", "frames"]) == 0
    assert pool.out == 0
    assert capsys.readouterr().out.splitlines() == [
        "frames: all agrees",
        "frames: 1 killed process reaped",
        "frames: all agrees",
    ]


def test_a_pool_is_removed_only_where_nobody_uses_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither its name nor its memory is left then."""
    pool = SharedPool("frames", size=4096, reserve=2, limit=4)
    assert run(["rm", "frames"]) == 1
    assert "is used by process" in capsys.readouterr().err
    pool.close()
    assert run(["rm", "frames"]) == 0
    assert listing.names() == []
    assert run(["rm", "frames"]) == 1
    assert "there is no shared pool" in capsys.readouterr().err


def test_words_that_do_not_agree_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A status of 1, and what is wrong."""
    pool = SharedPool("frames", size=4096, reserve=2, limit=4)
    layout = pool._engine.client.layout
    with (folder / "frames").open("r+b") as file:
        file.seek(layout.words + 16 * words.FIRST_SLOT)
        file.write(bytes([9]))
    assert run(["verify", "frames"]) == 1
    assert "in no state that there is" in capsys.readouterr().out


def damage(folder: Path) -> None:
    layout = Layout(16, 256, 64, 4096)
    with (folder / "frames").open("r+b") as file:
        file.seek(layout.words + 16 * words.FIRST_SLOT)
        file.write(bytes([9]))


def test_a_repair_is_told_before_it_is_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused while somebody uses the pool; then the words are made anew, and the next process works."""
    SharedPool("frames", size=4096, reserve=2, limit=4).close()
    with child(hold) as process:
        assert process.hear() == 2
        damage(folder)
        assert run(["verify", "frames"]) == 1
        told = capsys.readouterr().out
        assert "--repair would make its words anew, with reserve 2, keep 4, limit 4, and nothing out" in told
        assert f"but not while it is used by process {process.pid}" in told
        assert run(["verify", "frames", "--repair"]) == 1
        assert f"used by process {process.pid}" in capsys.readouterr().err
        process.end(signal.SIGKILL)
    assert run(["verify", "frames", "--repair"]) == 0
    assert "made anew, with reserve 2, keep 4, limit 4; 2 spare, 0 out" in capsys.readouterr().out
    pool = SharedPool("frames", size=4096, reserve=2, limit=4)
    assert pool.free_many(pool.alloc_many(4)) == 4
    assert run(["verify", "frames"]) == 0


def test_a_repair_returns_what_a_killed_process_held(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its words agree; looking tells of it, and a repair does it while others work."""
    pool = SharedPool("frames", size=4096, reserve=2, limit=4)
    with child(hold) as process:
        assert process.hear() == 2
        process.end(signal.SIGKILL)
        assert run(["verify", "frames"]) == 0
        assert f"left behind by process {process.pid}" in capsys.readouterr().out
    assert run(["verify", "frames", "--repair"]) == 0
    assert capsys.readouterr().out == "frames: 1 killed process reaped\nframes: all agrees\n"
    assert pool.out == 0
