"""`mempool fleet` and `mempool demo --fleet`, as their user meets them: a table, a resize, and a status that tells."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import mempool
import mempool.testing
from mempool import Buffers
from mempool.cli import main

pytest.importorskip("click")
pytest.importorskip("rich")
distributed = pytest.importorskip("distributed", reason="mempool[dask] is not installed")

from mempool.cli import fleet_demo  # noqa: E402 - needs distributed
from mempool.fleet.dask import Fleet  # noqa: E402 - as above

pytestmark = pytest.mark.filterwarnings("ignore::Warning")  # distributed's, about itself


@pytest.fixture
def farm() -> Iterator[tuple[str, Any]]:
    """The address of a scheduler with two workers, and a fleet on it."""
    options = {"processes": False, "protocol": "tcp", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=2, **options) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        yield cluster.scheduler_address, Fleet(client)


def test_a_fleet_is_a_table_and_is_resized_from_the_shell(
    farm: tuple[str, Fleet], capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is 0 when each worker has it; JSON has what the table has."""
    address, fleet = farm
    assert main(["fleet", address]) == 1
    assert "no pool of a fleet there" in capsys.readouterr().err
    fleet.create("staging", partial(Buffers, "4 KiB"), reserve=1, limit=4)
    assert main(["fleet", address, "staging", "--reserve", "3", "--wait", "60"]) == 0
    assert ": 2 applied" in capsys.readouterr().out
    # A heartbeat that was written while elements were made tells of fewer spares.
    mempool.testing.wait_until(lambda: [fleet.stats().total("staging", what) for what in ("reserve", "spare")] == [6, 6])
    assert main(["fleet", address]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [["staging", "0", "3", "4"], ["staging", "1", "3", "4"]]
    assert main(["top", "--fleet", address, "--once"]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert main(["fleet", address, "staging", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pools"]["staging"]["workers"]["0"] == {
        "outcome": "applied",
        "detail": "",
        "reserve": 3,
        "limit": 4,
        "spare": 3,
        "out": 0,
        "waiting": 0,
        "unfunded": 0,
    }
    assert main(["fleet", address, "staging", "--remove"]) == 0
    assert capsys.readouterr().out.endswith(": 2 applied\n")
    assert main(["fleet", address]) == 1


def test_a_users_mistake_is_one_line(farm: tuple[str, Fleet], capsys: pytest.CaptureFixture[str]) -> None:
    """Targets without a pool, a pool that is not there, targets that no pool can have, options that do not go together."""
    address, fleet = farm
    fleet.create("staging", partial(Buffers, "4 KiB"), reserve=1, limit=4)
    for arguments, status, said in (
        (["fleet", address, "--reserve", "3"], 2, "say which pool gets --reserve"),
        (["fleet", address, "other", "--reserve", "3"], 1, "the fleet has no pool 'other'; there are 'staging'"),
        (["fleet", address, "other"], 1, "the fleet has no pool 'other'; it has 'staging'"),
        (["fleet", address, "staging", "--reserve", "5"], 1, "a limit of 4 cannot hold the reserve of 5"),
        (["fleet", address, "staging", "--remove", "--reserve", "2"], 2, "--remove goes without --reserve"),
        (["fleet", address, "--remove"], 2, "say which pool gets --remove"),
        (["demo", "--fleet", "--workers", "3"], 2, "--fleet goes without workers"),
    ):
        assert main(arguments) == status
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1


def test_a_scheduler_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_where: object, **_options: object) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(distributed, "Client", refuse)
    assert main(["fleet", "tcp://127.0.0.1:9"]) == 1
    assert capsys.readouterr().err == "mempool: no scheduler answers at tcp://127.0.0.1:9: connection refused\n"


def test_what_happens_in_the_demo_is_told_with_the_seconds_since_it_began() -> None:
    said: list[str] = []
    fleet_demo.Course(said.append, began=time.monotonic() - 1000).tell("grown")
    seconds, _, text = said[0].partition(" s  ")
    assert 1000 <= float(seconds) < 2000
    assert text == "grown"


def test_names_from_other_machines_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """What comes from the network is printed without its control characters."""
    from mempool.fleet import Answer, Outcome, Standing
    from mempool.fleet.dask.client import FleetStats

    stats = FleetStats({"p\x1b[2J": Answer("p", 1, {"w\n\x9b": Standing(Outcome.APPLIED)})}, {})
    print(stats)
    assert {character for character in capsys.readouterr().out if not character.isprintable()} == {"\n"}


def test_a_clip_of_the_demo_is_what_was_made() -> None:
    """The checksum that the demo expects is that of its frames; two clips differ."""
    pool = mempool.Pool(Buffers(fleet_demo.FRAME), 1, name="staging")
    assert fleet_demo.decode(7) == fleet_demo.expected(7) != fleet_demo.expected(8)
    assert pool.stats().out == 0


@pytest.mark.skipif(os.environ.get("MEMPOOL_LONG", "0") != "1", reason="half a minute of four processes: make long")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals of Linux")
def test_the_demo_of_a_fleet_keeps_every_promise() -> None:
    """Four workers, sixty clips, a resize in the midst, one worker killed: within a minute, and the status tells."""
    command = [sys.executable, "-m", "mempool", "demo", "--fleet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 of 60 clips are decoded, and rightly" in done.stdout
    assert done.stdout.endswith("every promise was kept\n")
