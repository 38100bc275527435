"""A fleet on Dask, workers in this process: what a user sees, and what is promised of the worker and the scheduler."""

from __future__ import annotations

import asyncio
import functools
import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mempool
from mempool import Buffers
from mempool.fleet import Outcome
from mempool.testing import wait_until

distributed = pytest.importorskip("distributed", reason="mempool[dask] is not installed")

from fleet_tasks import (  # noqa: E402 - needs distributed
    BytesOfSecret,
    FailsOn,
    Gated,
    count,
    hold,
    hold_open,
    keep,
    missing,
    objects,
    pool_of,
    use,
)

from mempool.fleet.dask import Fleet, internals  # noqa: E402 - as above
from mempool.fleet.dask import scheduler as on_scheduler  # noqa: E402 - as above
from mempool.fleet.dask import worker as on_worker  # noqa: E402 - as above
from mempool.fleet.dask.client import FleetStats  # noqa: E402 - as above
from mempool.fleet.dask.scheduler import NAME  # noqa: E402 - as above
from mempool.fleet.statefile import StateFile  # noqa: E402 - as above

pytestmark = [pytest.mark.long_on_both, pytest.mark.filterwarnings("ignore::Warning")]  # distributed's, about itself


@pytest.fixture
def two(cluster: Callable[..., Any]) -> Iterator[Any]:
    """A fleet on two workers of this process, whose names are 0 and 1."""
    with cluster(2, processes=False) as (local, client):
        yield Fleet(client), client, local


def nodes_of(local: Any) -> dict[str, Any]:
    return {str(worker.name): on_worker._nodes[worker] for worker in local.workers.values()}


# -- create, resize, get


def test_each_worker_has_a_pool_and_is_resized_live(two: Any) -> None:
    """`create`, `resize` and the stats, as the README has them; and what was not said stays."""
    fleet, client, local = two
    staging = fleet.create("staging", functools.partial(Buffers, "4 KiB"), reserve=4, limit=8)
    assert client.gather(client.map(functools.partial(use, "staging"), range(10))) == list(range(10))
    answer = staging.resize(reserve=6)
    assert re.fullmatch(r"revision \d{16}: 2 applied", str(answer))
    assert answer.is_applied
    assert answer.wait(timeout=30).is_applied
    pools = [node.get("staging") for node in nodes_of(local).values()]
    assert [(pool.reserve, pool.keep, pool.limit, pool.spare) for pool in pools] == [(6, 12, 8, 6)] * 2
    assert staging.resize(limit=None, keep=7).is_applied
    assert [(pool.reserve, pool.keep, pool.limit) for pool in pools] == [(6, 7, None)] * 2
    # A heartbeat that was written while elements were made tells of fewer spares.
    wait_until(lambda: [fleet.stats().total("staging", what) for what in ("reserve", "spare")] == [12, 12])
    table = str(fleet.stats()).splitlines()
    assert table[0].split() == ["POOL", "WORKER", "PROMISE", "LIMIT", "SPARE", "OUT", "LINE", "UNFUNDED", "STATE"]
    assert [line.split() for line in table[1:]] == [["staging", w, "6", "-", "6", "0", "0", "0", "APPLIED"] for w in "01"]


def test_a_worker_that_comes_later_has_the_latest_from_its_first_task_on(two: Any) -> None:
    """Not the targets with which the pool was made."""
    fleet, client, local = two
    fleet.create("staging", objects, reserve=1).resize(reserve=5)
    local.scale(3)
    client.wait_for_workers(3)
    assert client.submit(pool_of, "staging", workers=[2], pure=False).result(30)[2] == 5


def test_bad_targets_change_nothing_and_are_raised_at_the_client(two: Any) -> None:
    """ValueError, TypeError and LookupError, which name the pool, the fact and the way out."""
    fleet, _, local = two
    staging = fleet.create("staging", objects, reserve=2, limit=3)
    with pytest.raises(ValueError, match=r"pool 'staging' of the fleet: a limit of 3 cannot hold the reserve of 4; raise"):
        staging.resize(reserve=4)
    with pytest.raises(ValueError, match="reserve is a whole number, not 'x'"):
        staging.resize(reserve="x")
    with pytest.raises(LookupError, match=r"the fleet has no pool 'none'; there are 'staging'\. Fleet.create makes one"):
        fleet["none"].resize(reserve=4)
    with pytest.raises(TypeError, match=r"is no function; give it one, e\.g\. partial"):
        fleet.create("other", Buffers("4 KiB"), reserve=1)
    with pytest.raises(ValueError, match="with another source or other options"):
        fleet.create("staging", functools.partial(Buffers, "8 KiB"), reserve=1)
    assert fleet.create("staging", objects, reserve=1, limit=3).answer().is_applied
    assert {node.get("staging").reserve for node in nodes_of(local).values()} == {1}


def test_workers_of_one_process_have_pools_of_their_own(two: Any) -> None:
    """`mempool.get` in a task is the worker's; outside of tasks it cannot know; LookupError says what to do."""
    fleet, client, local = two
    fleet.create("staging", objects, reserve=2)
    found = {client.submit(pool_of, "staging", workers=[int(name)], pure=False).result(30) for name in ("0", "1")}
    pools = {name: node.get("staging") for name, node in nodes_of(local).items()}
    assert found == {(name, id(pool), 2) for name, pool in pools.items()}
    with pytest.raises(LookupError, match="2 workers of this process have a pool 'staging' each; ask for it in a task"):
        mempool.get("staging")
    said = client.submit(missing, "absent", workers=[0]).result(30)
    assert said.startswith("worker '0' has no pool 'absent'; make it on each worker with Fleet(client).create('absent'")
    mine = mempool.Pool(objects(), 0, name="mine alone")
    assert client.submit(missing, "mine alone", workers=[0]).result(30) == ""
    assert mempool.get("mine alone") is mine


def test_an_asynchronous_client_awaits_the_same_calls() -> None:
    """create, resize, wait and stats."""

    async def main() -> FleetStats:
        options = {"processes": False, "dashboard_address": "127.0.0.1:0", "asynchronous": True}
        async with (
            distributed.LocalCluster(n_workers=1, **options) as local,
            distributed.Client(local, asynchronous=True) as client,
        ):
            fleet = Fleet(client)
            pool = await fleet.create("staging", objects, reserve=2)
            answer = await pool.resize(reserve=3)
            assert (await answer.wait(timeout=30)).is_applied
            return await fleet.stats()

    assert set(asyncio.run(main()).pools) == {"staging"}


def test_two_clients_that_resize_at_once_lose_nothing_of_each_other(two: Any) -> None:
    """Each gives another target, many times. Each answer has a revision of its own, later and later; both last ones hold."""
    fleet, _, local = two
    fleet.create("staging", objects, reserve=1, limit=100)
    revisions: list[list[int]] = [[], []]

    def resize(number: int, targets: list[dict[str, int]]) -> None:
        with distributed.Client(local, set_as_default=False) as own:
            pool = Fleet(own)["staging"]
            revisions[number] += [pool.resize(**target).revision for target in targets]

    ranges = [{"reserve": reserve} for reserve in range(2, 32)], [{"limit": limit} for limit in range(101, 131)]
    threads = [threading.Thread(target=resize, args=(number, targets)) for number, targets in enumerate(ranges)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(own) for own in revisions] == [30, 30]
    assert all(own == sorted(own) for own in revisions)
    assert len({*revisions[0], *revisions[1]}) == 60
    assert fleet["staging"].answer().wait(timeout=30).is_applied
    pools = [node.get("staging") for node in nodes_of(local).values()]
    assert [(pool.reserve, pool.limit) for pool in pools] == [(31, 130)] * 2


def test_workers_that_come_and_go_under_one_name_are_not_taken_for_each_other() -> None:
    """One leaves, another joins with its name, in the midst of resizes; and Dask tells the names 1 and "1" apart."""

    async def main() -> None:
        options = {"dashboard_address": "127.0.0.1:0", "protocol": "inproc"}
        async with distributed.Scheduler(**options) as scheduler:
            first = await distributed.Worker(scheduler.address, name=1, nthreads=1, dashboard_address=None)
            async with (
                distributed.Worker(scheduler.address, name="1", nthreads=1, dashboard_address=None),
                distributed.Client(scheduler.address, asynchronous=True) as client,
            ):
                pool = await Fleet(client).create("staging", objects, reserve=1)
                answer = await pool.resize(reserve=2)
                assert (len(answer.nodes), answer.is_applied) == (2, True), answer
                closing = asyncio.ensure_future(first.close())
                await pool.resize(reserve=3)
                await closing
                answer = await pool.resize(reserve=4)
                assert (list(answer.nodes), answer.is_applied) == (["1"], True), answer
                async with distributed.Worker(scheduler.address, name=1, nthreads=1, dashboard_address=None):
                    answer = await (await pool.resize(reserve=5)).wait(timeout=30)
                    assert (len(answer.nodes), answer.is_applied) == (2, True), answer
                    assert [standing.report.reserve for standing in answer.nodes.values()] == [5, 5]

    asyncio.run(main())


def test_a_state_that_cannot_be_written_is_told_and_written_later(
    cluster: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers have the resize, and whoever asked for it knows that a restart would lose it."""
    monkeypatch.setattr(on_scheduler, "SAVE_AGAIN_SECONDS", 0.1)
    folder, away = tmp_path / "disk", tmp_path / "away"
    folder.mkdir()
    with cluster(1, processes=False) as (local, client):
        client.register_plugin(on_scheduler.FleetSchedulerPlugin(str(folder / "state.json")), name=NAME)
        staging = Fleet(client).create("staging", objects, reserve=1)
        folder.rename(away)
        with pytest.raises(OSError, match=r"'staging' of the fleet: revision \d+ is on its way to the workers, but not in"):
            staging.resize(reserve=2)
        assert staging.answer().wait(timeout=30).is_applied
        assert {node.get("staging").reserve for node in nodes_of(local).values()} == {2}
        away.rename(folder)
        wait_until(lambda: StateFile(folder / "state.json").load()[0].targets.reserve == 2, timeout=30)


# -- memory lacks


def test_a_worker_without_memory_for_the_reserve_stays_and_is_deferred(two: Any, tmp_path: Path) -> None:
    """It has a pool of what there is, is tried again by itself, and `wait` ends when it is there."""
    fleet, client, _ = two
    (tmp_path / "full").touch()
    staging = fleet.create("staging", functools.partial(Gated, str(tmp_path)), reserve=2)
    answer = staging.answer()
    assert str(answer).endswith(": 2 deferred (0, 1)")
    assert len(client.scheduler_info()["workers"]) == 2
    with pytest.raises(TimeoutError, match=r"pool 'staging' of the fleet after 0\.1 s: revision \d+: 2 deferred \(0, 1\)"):
        staging.resize(reserve=3).wait(timeout=0.1)
    (tmp_path / "full").unlink()
    assert staging.resize(reserve=3).wait(timeout=60).is_applied
    assert client.submit(use, "staging", 1).result(30) == 1


def test_what_is_unfunded_is_tried_again_by_the_heartbeat_and_by_refill(two: Any, tmp_path: Path) -> None:
    """`refill` does not wait for the back-off."""
    fleet, _, _ = two
    (tmp_path / "1").touch()
    staging = fleet.create("staging", functools.partial(FailsOn, str(tmp_path), "1"), reserve=2)
    assert staging.answer().count(Outcome.DEFERRED) == 2
    assert staging.refill().count(Outcome.DEFERRED) == 2
    (tmp_path / "1").unlink()
    assert staging.refill().count(Outcome.APPLIED) == 2
    (tmp_path / "1").touch()
    answer = staging.resize(reserve=4)
    assert answer.count(Outcome.DEFERRED) == 2
    (tmp_path / "1").unlink()
    assert answer.wait(timeout=60).is_applied


def test_the_reason_of_what_is_not_applied_comes_with_the_heartbeat(two: Any, tmp_path: Path) -> None:
    """`answer`, `stats` and its table say why, and no longer when it is there."""
    fleet, _, _ = two
    staging = fleet.create("staging", functools.partial(Gated, str(tmp_path)), reserve=1)
    (tmp_path / "full").touch()
    staging.resize(reserve=3)
    wait_until(lambda: str(fleet.stats()).count("memory lacks for 2 of the reserve of 3") == 2)
    wait_until(lambda: staging.answer().reasons() == dict.fromkeys("01", "memory lacks for 2 of the reserve of 3"))
    wait_until(lambda: "staging on 1 is deferred: memory lacks" in str(fleet.stats()))
    (tmp_path / "full").unlink()
    staging.refill()
    wait_until(lambda: staging.answer().reasons() == {})


# -- a pool is removed


def test_a_pool_is_removed_from_all_workers_while_a_task_holds_an_element(two: Any, tmp_path: Path) -> None:
    """The task goes on. Later workers have none, `get` says why, and the name is free for another source."""
    fleet, client, local = two
    fleet.create("staging", objects, reserve=1)
    task = client.submit(hold_open, "staging", str(tmp_path), workers=[0], pure=False)
    wait_until((tmp_path / "held").exists)
    answer = fleet.remove("staging")
    assert str(answer).endswith(": 2 applied")
    assert answer.nodes["0"].detail == "1 of its elements is out still, and disposed of when returned"
    with pytest.raises(LookupError, match=r"the fleet has no pool 'staging'; there are none"):
        fleet["staging"].resize(reserve=2)
    with pytest.raises(LookupError, match="no pool 'staging'"):
        fleet.remove("staging")
    assert "because of its removal from the fleet" in client.submit(missing, "staging", workers=[1], pure=False).result(30)
    wait_until(lambda: fleet.stats().total("staging", "out") == 1)
    (tmp_path / "go").touch()
    assert task.result(30) == 1
    wait_until(lambda: fleet.stats().pools == {})
    local.scale(3)
    client.wait_for_workers(3)
    assert client.submit(missing, "staging", workers=[2], pure=False).result(30)
    again = fleet.create("staging", functools.partial(Buffers, "4 KiB"), reserve=2)
    assert again.answer().wait(timeout=30).count(Outcome.APPLIED) == 3


# -- a plugin that is registered again


def test_a_pool_survives_that_its_plugin_is_registered_again(two: Any, tmp_path: Path) -> None:
    """Dask runs teardown first. The pool is the identical one after it, open, with an element out all the while."""
    fleet, client, local = two
    fleet.create("staging", objects, reserve=1)
    before = {name: node.get("staging") for name, node in nodes_of(local).items()}
    task = client.submit(hold, "staging", str(tmp_path), pure=False)
    wait_until((tmp_path / "held").exists)
    client.register_plugin(on_worker.FleetWorkerPlugin([]), name=NAME)
    after = {name: node.get("staging") for name, node in nodes_of(local).items()}
    assert all(after[name] is pool and not pool.closed for name, pool in before.items())
    (tmp_path / "go").touch()
    assert task.result(30) == 1
    assert fleet["staging"].resize(reserve=2).is_applied


def test_a_worker_that_closes_closes_its_pools(cluster: Callable[..., Any]) -> None:
    """And nothing else does."""
    with cluster(1, processes=False) as (local, client):
        Fleet(client).create("staging", objects, reserve=1)
        (node,) = nodes_of(local).values()
        pool = node.get("staging")
        assert not pool.closed
    assert pool.closed


def test_a_plugin_that_is_registered_again_and_again_disturbs_no_resize(two: Any) -> None:
    """Each time Dask runs teardown and setup between two of its steps. No pool is another one, no resize is lost."""
    fleet, client, local = two
    staging = fleet.create("staging", objects, reserve=1)
    before = {name: node.get("staging") for name, node in nodes_of(local).items()}
    is_over = threading.Event()

    def register() -> None:
        with distributed.Client(local, set_as_default=False) as own:
            while not is_over.is_set():
                own.register_plugin(on_worker.FleetWorkerPlugin([]), name=NAME)

    thread = threading.Thread(target=register)
    thread.start()
    try:
        for reserve in range(2, 42):
            assert staging.resize(reserve=reserve, timeout=30).is_applied
    finally:
        is_over.set()
        thread.join(60)
    after = {name: node.get("staging") for name, node in nodes_of(local).items()}
    assert all(after[name] is pool and not pool.closed and pool.reserve == 41 for name, pool in before.items())
    local.scale(3)
    client.wait_for_workers(3)
    assert staging.answer().wait(timeout=30).count(Outcome.APPLIED) == 3


# -- where a source is loaded and runs


def test_the_source_travels_as_bytes_that_the_scheduler_never_loads(cluster: Callable[..., Any], tmp_path: Path) -> None:
    """The workers are processes; only they load it. A resize does not load it again."""
    with cluster(2, processes=True) as (_, client):
        fleet = Fleet(client)
        created = fleet.create("staging", BytesOfSecret(str(tmp_path)), reserve=1)
        assert created.answer().wait(timeout=60).is_applied  # processes that have just started import for seconds
        fleet["staging"].resize(reserve=2)
        pids = set(client.run(os.getpid).values())
    assert {int(path.name.split()[-1]) for path in tmp_path.iterdir()} == pids
    assert os.getpid() not in pids


def test_a_source_and_a_resize_run_beside_the_event_loop_of_the_worker(two: Any, tmp_path: Path) -> None:
    """While a source stands still, the worker answers, and says pending; and the answer comes in time."""
    fleet, client, _ = two
    (tmp_path / "slow").touch()
    staging = fleet.create("staging", functools.partial(Gated, str(tmp_path)), reserve=1, answer_within=0.5)
    assert client.submit(count, 1, 2).result(60) == 2
    answer = staging.answer()
    assert answer.count(Outcome.PENDING) == 2
    assert "making" in next(iter(answer.nodes.values())).detail
    (tmp_path / "slow").unlink()
    assert answer.wait(timeout=30).is_applied
    threads = {path.name for path in tmp_path.iterdir()}
    assert all(name.startswith("thread mempool fleet") for name in threads), threads
    assert threading.current_thread().name not in " ".join(threads)


# -- heartbeats


def test_a_heartbeat_grows_by_at_most_64_bytes_for_a_pool(two: Any) -> None:
    """As it is packed for the wire; with a name of sixteen characters and figures of five digits."""
    msgpack = pytest.importorskip("msgpack")
    fleet, _, local = two
    fleet.create("staging-of-16-ch", objects, reserve=2, limit=40_000)
    node = nodes_of(local)["0"]
    wire = on_worker._report(node, None)
    least = len(msgpack.packb(wire)) - 1
    report = dict(wire)
    revision = report["staging-of-16-ch"][0]
    report["staging-of-16-ch"] = [revision, 0, 40_000, 60_001, 40_000, 40_000, 10_000, 0, revision, 2**32 - 1]
    most = len(msgpack.packb(report)) - 1
    print(f"heartbeat: {least} to {most} B for a pool beside {len(msgpack.packb(NAME)) + 1} B for all")
    assert least < most <= 64


def test_a_metric_that_fails_says_so_instead_of_vanishing(two: Any) -> None:
    """Dask leaves out a metric that raises: the fault is a field, which stats show."""
    fleet, _, local = two
    fleet.create("staging", objects, reserve=1)
    node = nodes_of(local)["1"]

    def broken() -> object:
        raise ZeroDivisionError("of the report")

    node.members["staging"].report = broken
    wait_until(lambda: "ZeroDivisionError: of the report" in str(fleet.stats()))
    del node.members["staging"].report
    wait_until(lambda: "ZeroDivisionError" not in str(fleet.stats()))
    node.report = broken
    wait_until(lambda: fleet.stats().faults == {"1": "ZeroDivisionError: of the report"})
    del node.report


# -- elements


def test_a_task_that_needs_more_results_than_there_are_elements_ends_in_a_timeout(two: Any) -> None:
    """Each result keeps its element out. The third finds none, and says so; it does not wait for ever."""
    fleet, client, _ = two
    fleet.create("staging", objects, reserve=2, limit=2, timeout=1)
    kept = [client.submit(keep, "staging", number, workers=[0], pure=False) for number in range(4)]
    total = client.submit(count, *kept, workers=[0])
    with pytest.raises(mempool.PoolTimeout, match="'staging'"):
        total.result(60)


@pytest.mark.parametrize("timeout", [None, float("inf"), -1, "soon"])
def test_a_pool_of_a_fleet_needs_a_finite_timeout(two: Any, timeout: Any) -> None:
    """Where nothing is said it is 60 s."""
    fleet, _, local = two
    with pytest.raises(ValueError, match=r"needs a finite timeout in seconds.*another task's result keeps"):
        fleet.create("staging", objects, reserve=1, timeout=timeout)
    fleet.create("other", objects, reserve=1)
    assert {node.get("other")._timeout for node in nodes_of(local).values()} == {60.0}


def test_pickling_an_element_says_that_it_must_not_be_a_tasks_result() -> None:
    """A buffer and a lease."""
    pool = mempool.Pool(Buffers("4 KiB"), 1)
    with (
        pool.lease() as buffer,
        pytest.raises(TypeError, match=r"neither copied nor.*must not be the result of a task"),
    ):
        pickle.dumps(buffer)
    lease = pool.lease()
    with lease, pytest.raises(TypeError, match=r"neither copied nor.*must not be the result of a task"):
        pickle.dumps(lease)


# -- what is used of distributed


def test_what_distributed_does_not_promise_is_touched_in_one_file_only() -> None:
    """Each with its reason and what breaks without; the others go through it."""
    folder = Path(internals.__file__).parent
    used = {attribute for _, attribute, _, _ in internals.USED}
    assert all(reason and breaks for _, _, reason, breaks in internals.USED)
    touch = re.compile(
        rf"\b(?:worker|scheduler|client|_scheduler)\.({'|'.join(sorted(used - {'metrics'}))}|metrics(?=\[))(?!\w)"
    )
    found = {path.name: touch.findall(path.read_text("utf-8")) for path in folder.glob("*.py")}
    assert set(found.pop("internals.py")) <= used
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_these_tests_run_with_the_distributed_that_is_meant() -> None:
    """The gate lays the oldest one before the newest, and must not test the newest twice."""
    wanted = os.environ.get("MEMPOOL_WANTED_DASK", distributed.__version__)
    assert distributed.__version__ == wanted


def test_a_distributed_that_lacks_something_is_told_of_by_name() -> None:
    """At once, and not when the first resize fails."""
    with pytest.raises(RuntimeError, match=r"has no Worker\.handlers, metrics, status, which mempool"):
        internals.check(object(), "Worker")
