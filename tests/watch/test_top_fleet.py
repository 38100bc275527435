"""`mempool top --fleet` on a terminal: the table of a cluster, which changes under the eyes."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from mempool import Objects

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a terminal of its own"),
    pytest.mark.filterwarnings("ignore::Warning"),  # distributed's, about itself
    pytest.mark.once,
]
pytest.importorskip("click")
pytest.importorskip("rich")
pytest.importorskip("pyte")
distributed = pytest.importorskip("distributed", reason="mempool[dask] is not installed")

from terminals import OnTerminal  # noqa: E402 - needs pyte

from mempool.fleet.dask import Fleet  # noqa: E402 - needs distributed


class Full(Objects[object]):
    """A source without memory as long as a file is there."""

    def __init__(self, folder: str) -> None:
        def make() -> object:
            if Path(folder, "full").exists():
                raise MemoryError("the memory group is full")
            return object()

        super().__init__(make)


def promises(screen: list[str], number: int) -> bool:
    """Both workers' rows, and no other below."""
    return [line.split()[2] for line in screen[1:] if line.strip()] == [str(number)] * 2


def test_it_follows_a_cluster_until_it_is_interrupted(tmp_path: Path) -> None:
    """A resize, a reason and a removal are seen as they come; no old line stays; Ctrl-C ends it, with status 0."""
    options = {"processes": False, "protocol": "tcp", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(n_workers=2, **options) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        fleet = Fleet(client)
        staging = fleet.create("staging", partial(Full, str(tmp_path)), reserve=1, limit=40)
        command = ["-m", "mempool", "top", "--fleet", cluster.scheduler_address, "--interval", "0.1"]
        with OnTerminal(*command, lines=8) as top:
            screen = top.shows(lambda screen: promises(screen, 1), seconds=60)
            assert screen[0].split()[:4] == ["POOL", "WORKER", "PROMISE", "LIMIT"]
            staging.resize(reserve=12)
            top.shows(lambda screen: promises(screen, 12))
            (tmp_path / "full").touch()
            staging.resize(reserve=15)
            top.shows(lambda screen: "staging on 1 is deferred: memory lacks for 3 of the reserve of 15" in screen[4])
            (tmp_path / "full").unlink()
            staging.refill()
            top.shows(lambda screen: promises(screen, 15))
            fleet.remove("staging")
            top.shows(lambda screen: screen[0].startswith("POOL") and not any(line.strip() for line in screen[1:]))
            os.kill(top.process.pid, signal.SIGINT)
            assert top.process.wait(60) == 0
