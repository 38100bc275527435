"""The demo is seen and resized from outside while it runs, as docs/how-to/see-a-pool.md shows it."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from terminals import OnTerminal

from mempool import watch
from mempool.testing import wait_until

pytest.importorskip("click", reason="needs mempool[cli]")

from mempool.cli.app import run


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files enough for seconds."""
    for number in range(300):
        (tmp_path / str(number)).write_bytes(bytes([number % 251]) * (60_000 + number))
    return tmp_path


def promised() -> set[int]:
    """By each pool that is called demo."""
    return {pool.stats().reserve for process in watch.processes() for pool in process.pools if pool.name == "demo"}


@pytest.mark.long_on_both
def test_the_demo_is_seen_by_top_and_resized_and_ends_with_status_0(
    folder: Path, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its words say what to type; and its own resize, to 16, does not take back the 24 that somebody asked for."""
    options = ["--buffer-size=64 KiB", "--latency=150", "--seconds=60", "--rounds=2", "--queue=64"]
    steer = {"MEMPOOL_WATCH": "steer"}
    with ExitStack() as stack:
        # Half way the demo resizes by itself. Until then no process begins, which takes seconds on a busy machine.
        top = stack.enter_context(OnTerminal("-m", "mempool", "top", "--interval", "0.1"))
        top.shows(lambda lines: lines[0].startswith("mempool top"))
        demo = stack.enter_context(
            OnTerminal("-m", "mempool", "demo", str(tree), *options, columns=140, lines=60, env=steer)
        )
        shown = "\n".join(demo.shows(lambda lines: "seen from outside" in "".join(lines), seconds=60))
        told = re.search(r"mempool (resize demo@\d+ --reserve 24)", shown)
        assert told is not None, shown
        top.shows(lambda lines: any(re.match(r"demo +mempool demo \d+ +4 ", line) for line in lines))
        status = run(told[1].split())
        said = capsys.readouterr()
        assert status == 0, said
        assert "24 promised (was 4)" in said.out
        top.shows(lambda lines: any(re.match(r"demo +mempool demo \d+ +24 ", line) for line in lines))
        demo.shows(lambda lines: "a resize to reserve 24, from 4, by uid" in "".join(lines))
        demo.shows(lambda lines: "pool.resize(reserve=24) -> Guarantee(promised=24" in "".join(lines), seconds=60)
        assert promised() <= {24}
        top.type("q")
        assert top.ended() == 0
        demo.shows(lambda lines: "passed" in "".join(lines), seconds=120)
        assert demo.process.wait(60) == 0
        assert "was resized from outside" in "".join(demo.screen.display)
    wait_until(lambda: not list(watch.processes()))
