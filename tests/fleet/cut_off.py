"""Two workers in network namespaces of their own, one of which is cut off and joined again. Run by test_cut_off.py.

    unshare --net python cut_off.py FOLDER

This process is in a namespace of its own, too: a bridge in it is the network, and all of it vanishes with its processes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import distributed
from fleet_tasks import objects

from mempool.fleet import Outcome
from mempool.fleet.dask import Fleet
from mempool.testing import wait_until

NETWORK = "198.18.0"  # for tests of networks, RFC 2544
#: Seconds without an answer after which both ends of a connection close it: the fewest that distributed takes.
GONE_SECONDS = 12


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def namespace_of(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


@contextlib.contextmanager
def machine(number: int, scheduler: str, folder: Path) -> Iterator[None]:
    """A machine with one worker: a namespace whose only way out is a cable to the bridge."""
    own = folder / f"machine-{number}"
    own.mkdir()
    farm = [sys.executable, str(Path(__file__).with_name("farm.py")), scheduler, "1", str(own), f"{NETWORK}.{number}"]
    with (own / "log").open("wb") as log:
        process = subprocess.Popen(["unshare", "--net", *farm], stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: namespace_of(process.pid) != namespace_of(os.getpid()), timeout=60)
        ip(f"link add cable{number} type veth peer name eth0 netns {process.pid}")
        ip(f"link set cable{number} master bridge up")
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def resizes_on(folder: Path, number: int) -> list[tuple[int, int]]:
    """The revision and the reserve of each, in their order."""
    lines = (folder / f"machine-{number}" / "resizes").read_text().splitlines()
    return [(int(revision), int(reserve)) for _, revision, reserve in map(str.split, lines)]


def reserves(fleet: Fleet) -> list[int]:
    reports = [standing.report for standing in fleet.stats().pools["staging"].nodes.values()]
    return sorted(report.reserve for report in reports if report is not None)


def all_have(fleet: Fleet, reserve: int) -> bool:
    return reserves(fleet) == [reserve] * 2 and fleet["staging"].answer().is_applied


def is_applied_by_one(staging: Any) -> bool:
    outcomes = sorted(standing.outcome for standing in staging.answer().nodes.values())
    return outcomes == [Outcome.APPLIED, Outcome.UNREACHABLE]


def run(client: Any, folder: Path) -> None:
    """Cut off for a moment, in which the connection lives; then for so long that the worker is given up."""
    fleet = Fleet(client)
    staging = fleet.create("staging", objects, reserve=1)
    staging.answer().wait(timeout=60)

    ip("link set cable12 down")
    began = time.monotonic()
    for reserve in (2, 3, 4):
        staging.resize(reserve=reserve, timeout=0.3)
    took = (time.monotonic() - began) / 3
    wait_until(lambda: is_applied_by_one(staging), timeout=60)  # a machine that is busy may take longer than those 0.3 s
    assert took < 0.3 + 0.1 + 5, took
    ip("link set cable12 up")
    began = time.monotonic()
    wait_until(functools.partial(all_have, fleet, 4), timeout=60)
    seconds = time.monotonic() - began
    print(f"cut off, three resizes of {took * 1000:.0f} ms each; joined again, all have the latest after {seconds:.1f} s")

    ip("link set cable12 down")
    staging.resize(reserve=5, timeout=0.3)
    wait_until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 1, timeout=8 * GONE_SECONDS)
    assert str(staging.resize(reserve=6, timeout=60)).endswith(": 1 applied")
    ip("link set cable12 up")
    began = time.monotonic()
    wait_until(functools.partial(all_have, fleet, 6), timeout=60)
    print(f"given up by the scheduler; joined again, all have the latest after {time.monotonic() - began:.1f} s")

    for number in (11, 12):
        revisions = [revision for revision, _ in resizes_on(folder, number)]
        assert all(before <= after for before, after in itertools.pairwise(revisions)), revisions
    print("no step back on either")


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")  # distributed's, about itself
    for command in ("link set lo up", "link add bridge type bridge", f"address add {NETWORK}.1/24 dev bridge"):
        ip(command)
    ip("link set bridge up")
    options = {"host": f"{NETWORK}.1", "dashboard_address": f"{NETWORK}.1:0"}
    with distributed.LocalCluster(n_workers=0, processes=True, **options) as cluster:
        address = cluster.scheduler_address
        with machine(11, address, folder), machine(12, address, folder), distributed.Client(cluster) as client:
            client.wait_for_workers(2, timeout=60)
            run(client, folder)


if __name__ == "__main__":
    os.environ["DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP"] = f"{GONE_SECONDS}s"
    dask.config.refresh()
    main(Path(sys.argv[1]))
