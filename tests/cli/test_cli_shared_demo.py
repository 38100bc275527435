"""`mempool demo --shared`: files go through four processes, of which one is killed every 200 ms."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from rich.console import Console

from mempool.cli import main, shared_demo

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Small files, an empty one, and one of several blocks."""
    for number in range(20):
        (tmp_path / f"{number}.bin").write_bytes(os.urandom(7_000 * number))
    (tmp_path / "large.bin").write_bytes(os.urandom(2 * shared_demo.BLOCK + 5))
    return tmp_path


def run(tree: Path, seconds: float = 1.5) -> tuple[list[str], str]:
    told = io.StringIO()
    faults = shared_demo.run(tree, Console(file=told, width=200), seconds=seconds)
    return faults, told.getvalue()


def folders() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("mempool-demo-*")}


def test_nothing_is_lost_while_processes_are_killed_and_the_pool_is_resized(tree: Path) -> None:
    """Every block that was handed out came, its digest is right, and the memory is back."""
    before = folders()
    faults, told = run(tree)
    assert faults == [], told
    found = re.search(r"ok    ([\d,]+) blocks went through; 0 are missing", told)
    assert found, told
    assert int(found[1].replace(",", "")) > 0
    assert re.search(r"ok    [1-9]\d* processes killed", told), told
    assert "0 bytes of elements are left" in told
    assert folders() == before


def test_a_wrong_digest_is_a_fault(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo that cannot fail shows nothing."""
    monkeypatch.setattr(shared_demo, "hash_bytes", lambda view: hashlib.blake2b(bytes(view)[1:], digest_size=16).digest())
    faults, _ = run(tree, seconds=0.5)
    assert any("digests are hashlib's" in fault for fault in faults)


def test_what_is_not_returned_is_a_fault(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody keeps an element, and its memory with it."""
    made = shared_demo._judge

    def keep_one(farm: shared_demo.Farm, *rest: Any) -> list[str]:
        held = farm.pool.alloc()
        faults = made(farm, *rest)
        farm.pool.free(held)
        return faults

    monkeypatch.setattr(shared_demo, "_judge", keep_one)
    faults, told = run(tree, seconds=0.5)
    assert [fault for fault in faults if "1 elements are out" in fault], told
    assert [fault for fault in faults if "KiB of elements are left" in fault], told


def test_the_command_says_so_by_its_status(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0, where every promise was kept; 1, where one was not; 2 for an option of the other demo."""
    monkeypatch.setattr(shared_demo, "run", functools.partial(shared_demo.run, seconds=0.5))
    assert main(["demo", "--shared", str(tree)]) == 0
    assert capsys.readouterr().out.endswith("every promise was kept\n")
    monkeypatch.setattr(shared_demo, "run", lambda *_: ["a fault"])
    assert main(["demo", "--shared", str(tree)]) == 1
    assert "every promise" not in capsys.readouterr().out
    assert main(["demo", "--shared", "--workers", "3"]) == 2
    assert "goes without workers" in capsys.readouterr().err


@pytest.mark.long
def test_the_command_runs_for_its_six_seconds(tree: Path) -> None:
    """As its user calls it."""
    command = [sys.executable, "-m", "mempool", "demo", "--shared", str(tree)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.endswith("every promise was kept\n")
