"""A fleet on worker processes that are killed and stopped, and on a scheduler that is killed and comes back."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mempool import Buffers
from mempool.fleet import Outcome
from mempool.testing import wait_until

distributed = pytest.importorskip("distributed", reason="mempool[dask] is not installed")

from fleet_tasks import STEPS, Gated, die_at, made_here, objects, pool_of, use  # noqa: E402 - needs distributed

from mempool.fleet.dask import Fleet  # noqa: E402 - as above

#: What a busy machine takes longer, in seconds. A bound is for what hangs.
BUSY = 20.0

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning"),  # distributed's, about itself
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals of Linux"),
    pytest.mark.timeout(240),
]


def pids(client: Any) -> dict[str, int]:
    """Of the workers, by name."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    answers = client.run(os.getpid, on_error="ignore")
    return {str(workers[address]["name"]): pid for address, pid in answers.items() if address in workers}


def reserves(fleet: Fleet, name: str) -> dict[str, int]:
    """What each worker's last heartbeat says."""
    reports = {who: standing.report for who, standing in fleet.stats().pools[name].nodes.items()}
    return {who: report.reserve for who, report in reports.items() if report is not None}


@pytest.mark.long
def test_a_resize_with_a_dead_a_stopped_and_a_slow_worker_returns_in_time(
    cluster: Callable[..., Any], tmp_path: Path
) -> None:
    """It says who is there, who is at work and who cannot be reached; and the stopped one applies it when it goes on."""
    with cluster(4, processes=True) as (_, client):
        fleet = Fleet(client)
        staging = fleet.create("staging", functools.partial(gated_by_worker, str(tmp_path)), reserve=1)
        assert staging.answer().wait(timeout=60).is_applied  # processes that have just started import for seconds
        known = pids(client)
        slow = tmp_path / str(known["2"]) / "slow"
        slow.touch()
        os.kill(known["1"], signal.SIGSTOP)
        os.kill(known["0"], signal.SIGKILL)
        timeout = 0.5
        began = time.monotonic()
        answer = staging.resize(reserve=2, timeout=timeout)
        took = time.monotonic() - began
        print(f"resize with a dead, a stopped and a slow worker: {took * 1000:.0f} ms at a timeout of {timeout * 1000:.0f}")
        assert took <= timeout + 0.1 + BUSY
        outcomes = {who: standing.outcome for who, standing in answer.nodes.items()}
        assert outcomes["1"] is Outcome.UNREACHABLE
        assert outcomes["2"] is Outcome.PENDING
        assert outcomes["3"] is Outcome.APPLIED
        assert outcomes.get("0") in {None, Outcome.UNREACHABLE}
        slow.unlink()
        os.kill(known["1"], signal.SIGCONT)
        assert answer.wait(timeout=60).count(Outcome.APPLIED) >= 3
        wait_until(lambda: reserves(fleet, "staging") == dict.fromkeys("0123", 2), timeout=60)


def gated_by_worker(folder: str) -> Gated:
    """A source with a folder of its own for each worker's process."""
    own = Path(folder) / str(os.getpid())
    own.mkdir(exist_ok=True)
    return Gated(str(own))


@pytest.mark.long
def test_a_nanny_brings_a_killed_worker_back_with_its_pools(cluster: Callable[..., Any]) -> None:
    """kill -9: the next process begins with the latest targets, before its first task."""
    with cluster(2, processes=True) as (_, client):
        fleet = Fleet(client)
        staging = fleet.create("staging", functools.partial(Buffers, "4 KiB"), reserve=1)
        staging.resize(reserve=3)
        before = pids(client)
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: len(pids(client)) == 2 and not set(pids(client).values()) & set(before.values()), timeout=60)
        wait_until(lambda: reserves(fleet, "staging") == {"0": 3, "1": 3}, timeout=60)
        print(f"both workers killed: pools back after {time.monotonic() - began:.1f} s")
        found = [client.submit(pool_of, "staging", workers=[name], pure=False).result(30) for name in (0, 1)]
        assert [reserve for _, _, reserve in found] == [3, 3]


@contextlib.contextmanager
def farm(scheduler: str, workers: int, folder: Path) -> Iterator[Callable[[int], int]]:
    """Workers of a supervisor that starts each again at once; and the pid of each, by its number."""
    command = [sys.executable, str(Path(__file__).with_name("farm.py")), scheduler, str(workers), str(folder)]
    with a_group(command, folder):
        yield lambda number: int((folder / str(number)).read_text())


@pytest.mark.long  # beside it, workers are killed at any time, and a scheduler
def test_a_worker_that_is_killed_in_each_step_of_a_resize_comes_to_the_latest(
    cluster: Callable[..., Any], tmp_path: Path
) -> None:
    """From the order's coming to the answer's going. The others have it at once, its successor from its beginning on."""
    with cluster(0, processes=True) as (local, client), farm(local.scheduler_address, 2, tmp_path) as pid_of:
        client.wait_for_workers(2, timeout=60)
        fleet = Fleet(client)
        staging = fleet.create("staging", made_here, reserve=1, keep=1)
        for reserve, step in enumerate(STEPS, 2):
            workers = client.scheduler_info(n_workers=-1)["workers"]
            victim = next(address for address, info in workers.items() if info["name"].startswith("0."))
            before = pid_of(0)
            client.run(die_at, step, workers=[victim])
            answer = staging.resize(reserve=reserve, keep=reserve, timeout=20)
            assert answer.nodes["1.1"].outcome is Outcome.APPLIED, step
            wait_until(functools.partial(is_another, pid_of, before), timeout=60)
            wait_until(functools.partial(all_have, fleet, [reserve] * 2), timeout=60)
            assert staging.answer().wait(timeout=30).is_applied, step
            assert client.gather(client.map(functools.partial(use, "staging"), range(8), pure=False)) == list(range(8))


def is_another(pid_of: Callable[[int], int], pid: int) -> bool:
    return pid_of(0) != pid


def all_have(fleet: Fleet, wanted: list[int]) -> bool:
    return list(reserves(fleet, "staging").values()) == wanted


def have_one_of(fleet: Fleet, wanted: set[int]) -> bool:
    return {*reserves(fleet, "staging").values()} <= wanted


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(2.0, marks=pytest.mark.once, id="sample"),
        pytest.param(60.0, marks=pytest.mark.long, id="long"),
        pytest.param(60.0, marks=pytest.mark.stress, id="stress"),
    ],
)
def test_workers_that_are_killed_all_the_time_come_to_the_latest_resize(
    cluster: Callable[..., Any], tmp_path: Path, seconds: float
) -> None:
    """A random one each 0.5 s, while the pool is resized: after the last kill all have the last targets within seconds.

    Whether it works, starts or is just being set up. Its supervisor starts it again at once.
    """
    dice = random.Random(20)
    with cluster(0, processes=True) as (local, client), farm(local.scheduler_address, 4, tmp_path) as pid_of:
        client.wait_for_workers(4, timeout=60)
        fleet = Fleet(client)
        staging = fleet.create("staging", objects, reserve=1)
        end = time.monotonic() + seconds
        next_kill = last_kill = time.monotonic()
        kills, resizes = 0, 0
        while time.monotonic() < end or kills < 1.5 * seconds:  # a resize may take longer than the time between two kills
            if time.monotonic() >= next_kill:
                next_kill += 0.5
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid_of(dice.randrange(4)), signal.SIGKILL)
                    last_kill = time.monotonic()
                    kills += 1
            resizes += 1
            answer = staging.resize(reserve=1 + resizes % 7, keep=20, timeout=0.2)
        wanted = 1 + resizes % 7
        wait_until(
            lambda: list(reserves(fleet, "staging").values()) == [wanted] * 4 and staging.answer().is_applied,
            timeout=5 + 4 * BUSY,
        )
        took = time.monotonic() - last_kill
        print(f"{kills} kills, {resizes} resizes in {seconds:.0f} s; {took:.1f} s from the last kill to the latest on all")
        assert kills >= 1.5 * seconds
        assert answer.wait(timeout=30).is_applied
        assert client.gather(client.map(functools.partial(use, "staging"), range(8))) == list(range(8))


# -- a scheduler that is killed


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def process(*command: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A module in a process group of its own; see `a_group`."""
    with a_group([sys.executable, "-m", *command], folder) as running:
        yield running


@contextlib.contextmanager
def a_group(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is killed as a whole at the end: a nanny's worker, too."""
    with (folder / "log").open("ab") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        yield running
    finally:
        kill_group(running.pid)
        running.wait(20)


def group_of(leader: int) -> dict[int, bytes]:
    """The processes of this group, and their commands."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):  # no process; or it has just ended
            if os.getpgid(int(entry.name)) == leader:
                found[int(entry.name)] = (entry / "cmdline").read_bytes()
    return found


def kill_group(leader: int) -> None:
    """All at once, but for the tracker of multiprocessing, which removes their semaphores from /dev/shm, and ends."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGSTOP)  # nobody begins another one meanwhile
    for pid, command in group_of(leader).items():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT if b"resource_tracker" in command else signal.SIGKILL)
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not any(b"resource_tracker" in command for command in group_of(leader).values()), timeout=20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def a_scheduler(port: int, folder: Path, *more: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    command = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), *more]
    preload = ["--preload", "mempool.fleet.dask.scheduler", "--mempool-state", str(folder / "state.json")]
    return process(*command, *preload, folder=folder)


def a_worker(port: int, folder: Path, *more: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    command = ["distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", "--host", "127.0.0.1", "--nthreads", "1"]
    return process(*command, "--local-directory", str(folder), *more, folder=folder)


def client_of(port: int) -> Any:
    return distributed.Client(f"tcp://127.0.0.1:{port}", timeout=30)


@pytest.mark.long
def test_a_scheduler_that_was_killed_begins_with_the_state_of_the_file(tmp_path: Path) -> None:
    """kill -9: workers and nannies end, as Dask has it. New ones have the pool that nobody has created since."""
    port = free_port()
    options = ("--no-dashboard",)
    with a_scheduler(port, tmp_path, *options) as scheduler, a_worker(port, tmp_path, *options) as first:
        with client_of(port) as client:
            client.wait_for_workers(1, timeout=60)
            staging = Fleet(client).create("staging", functools.partial(Buffers, "4 KiB"), reserve=2, timeout=7)
            revision = staging.resize(reserve=5, limit=9).revision
            scheduler.send_signal(signal.SIGKILL)
        first.wait(60)
    with a_scheduler(port, tmp_path, *options), a_worker(port, tmp_path, *options), client_of(port) as client:
        client.wait_for_workers(1, timeout=60)
        fleet = Fleet(client)
        answer = fleet["staging"].answer()
        assert answer.revision == revision
        assert answer.wait(timeout=30).is_applied
        (standing,) = fleet["staging"].answer().nodes.values()
        wait_until(lambda: set(reserves(fleet, "staging").values()) == {5})
        assert standing.outcome is Outcome.APPLIED
        assert fleet["staging"].resize(reserve=6).revision > revision


@pytest.mark.long
def test_a_scheduler_that_is_killed_while_it_resizes_forgets_nothing_that_was_answered(tmp_path: Path) -> None:
    """kill -9 in the midst of resizes: the next begins with the last that a client was told of, or the one after it."""
    port = free_port()
    options = ("--no-dashboard",)
    answered = [(0, 0)]  # the reserve and the revision
    for _ in range(3):
        with a_scheduler(port, tmp_path, *options) as scheduler, a_worker(port, tmp_path, *options) as worker:
            with client_of(port) as client:
                client.wait_for_workers(1, timeout=60)
                fleet = Fleet(client)
                last, revision = answered[-1]
                if revision:
                    assert fleet["staging"].answer().revision >= revision
                    assert fleet["staging"].answer().wait(timeout=60).is_applied
                    wait_until(functools.partial(have_one_of, fleet, {last, last + 1}), timeout=60)
                else:
                    fleet.create("staging", functools.partial(Buffers, "4 KiB"), reserve=0, keep=10_000)
                is_over = threading.Event()

                def resize(staging: Any = fleet["staging"], is_over: threading.Event = is_over, last: int = last) -> None:
                    for reserve in range(last + 1, 10_000):
                        try:
                            answered.append((reserve, staging.resize(reserve=reserve, timeout=5).revision))
                        except Exception:  # noqa: BLE001 - whatever distributed says of a scheduler that is gone
                            break
                    is_over.set()

                thread = threading.Thread(target=resize, daemon=True)
                before = len(answered)
                thread.start()
                wait_until(lambda before=before: len(answered) > before + 20, timeout=60)
                scheduler.send_signal(signal.SIGKILL)
                assert is_over.wait(60)
            worker.wait(60)
    revisions = [revision for _, revision in answered]
    assert revisions == sorted(set(revisions))
    print(f"{len(answered)} resizes were answered; three schedulers were killed, none forgot one")


# -- metrics


def scrape(port: int) -> dict[str, float]:
    """A page of Prometheus: by the name with its labels."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("mempool_")]
    return {name: float(value) for name, _, value in lines}


@pytest.mark.long_on_both
def test_the_metrics_of_scheduler_and_workers_show_the_pools(tmp_path: Path) -> None:
    """Where prometheus_client is installed: on the pages that Dask serves anyway."""
    pytest.importorskip("prometheus_client")
    port, page, workers_page = free_port(), free_port(), free_port()
    with (
        a_scheduler(port, tmp_path, "--dashboard-address", f"127.0.0.1:{page}"),
        a_worker(port, tmp_path, "--name", "w", "--no-nanny", "--dashboard-address", f"127.0.0.1:{workers_page}"),
        client_of(port) as client,
    ):
        client.wait_for_workers(1, timeout=60)
        fleet = Fleet(client)
        answer = fleet.create("staging", functools.partial(Buffers, "4 KiB"), reserve=3, limit=8).answer().wait(timeout=60)
        told = scrape(workers_page)
        assert told['mempool_reserve_elements{pool="staging",worker="w"}'] == 3
        assert told['mempool_limit_elements{pool="staging",worker="w"}'] == 8
        assert told['mempool_elements{pool="staging",state="spare",worker="w"}'] == 3
        assert told['mempool_fleet_revision{pool="staging",worker="w"}'] == answer.revision
        wait_until(lambda: scrape(page).get('mempool_fleet_spare{pool="staging",worker="w"}') == 3)
        told = scrape(page)
        assert told['mempool_fleet_workers{outcome="applied",pool="staging"}'] == 1
        assert told['mempool_fleet_workers{outcome="deferred",pool="staging"}'] == 0
        assert told['mempool_fleet_wanted_revision{pool="staging"}'] == answer.revision
