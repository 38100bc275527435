"""A supervisor of workers, for the tests: a worker that ends, however it does, is started again at once.

    python farm.py SCHEDULER WORKERS FOLDER [HOST]

Workers are forks of this process, which has imported all that they need: one is up again after some tenths of a second. Each
has a name of its own, `1.7` the seventh that is worker 1. The file FOLDER/1 holds the pid of worker 1, FOLDER/resizes has a
line for each resize of a pool: the revision and the reserve, in their order.

With HOST, this process is in a network namespace of its own. Somebody gives it an interface `eth0`, which it makes HOST's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import fleet_tasks  # noqa: F401 - what sources and tasks come from
from distributed import Worker

import mempool.fleet.dask  # noqa: F401 - so that no worker need import it
from mempool.fleet import Member, Targets
from mempool.testing import wait_until


def log_resizes(path: Path) -> None:
    """Have each resize of this process leave a line, in one write."""
    resize = Member._set_targets
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def logged(self: Member, revision: int, targets: Targets) -> Any:
        os.write(file, f"{os.getpid()} {revision} {targets.reserve}\n".encode())
        return resize(self, revision, targets)

    Member._set_targets = logged  # type: ignore[method-assign]


def work(scheduler: str, name: str, folder: Path, host: str) -> NoReturn:
    """Be a worker. Ends without a word: whoever is a fork has nothing to clean up."""
    warnings.simplefilter("ignore")  # distributed's, about itself

    async def run() -> None:
        options = {"nthreads": 1, "host": host, "dashboard": False, "local_directory": str(folder / "scratch")}
        async with Worker(scheduler, name=name, **options) as worker:
            await worker.finished()

    status = 1
    try:
        asyncio.run(run())
        status = 0
    finally:
        os._exit(status)


def supervise(scheduler: str, workers: int, folder: Path, host: str) -> NoReturn:
    """Keep so many workers alive, until this process is killed."""
    started = dict.fromkeys(range(workers), 0)
    numbers: dict[int, int] = {}

    def start(number: int) -> None:
        started[number] += 1
        pid = os.fork()
        if pid == 0:
            work(scheduler, f"{number}.{started[number]}", folder, host)
        numbers[pid] = number
        beside = folder / f".{number}"
        beside.write_text(str(pid))
        beside.replace(folder / str(number))

    for number in range(workers):
        start(number)
    while True:
        pid, _ = os.wait()
        start(numbers.pop(pid))


def join_network(host: str) -> None:
    """Wait for the interface, and make it this host's."""
    wait_until(lambda: "eth0" in [name for _, name in socket.if_nameindex()], timeout=60)
    for command in ("link set lo up", f"address add {host}/24 dev eth0", "link set eth0 up"):
        subprocess.run(["ip", *command.split()], check=True)


if __name__ == "__main__":
    _, address, count, where, *more = sys.argv
    if more:
        join_network(more[0])
    log_resizes(Path(where, "resizes"))
    supervise(address, int(count), Path(where), *more or ["127.0.0.1"])
