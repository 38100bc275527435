"""Workers of one machine that share one pool: its targets are the machine's, and what a killed one held comes back."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from folders import folder_on_tmpfs

import mempool
from mempool import Buffers, Objects
from mempool.fleet import Node, Order, Outcome, Report, Targets
from mempool.fleet.node import check_options
from mempool.shared import listing
from mempool.testing import wait_until

pytest.importorskip("mempool.shared._engine", reason="shared pools need the compiled core")
machine = pytest.importorskip("mempool.fleet.machine", reason="shared pools need Linux")

MAKE = functools.partial(Buffers, "4 KiB")
#: What a busy machine takes longer, in seconds. A bound is for what hangs.
BUSY = 20.0


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Shared pools lie in a folder of the test's own, also those of its children."""
    with folder_on_tmpfs() as own:
        monkeypatch.setenv("MEMPOOL_SHARED_FOLDER", str(own))
        yield own


def an_order(revision: int, targets: Targets, *, born: int = 1, make: Any = MAKE, **options: Any) -> Order:
    options = {"shared": "frames", "slots": None, "timeout": 5.0} | options
    return Order("frames", revision, targets, pickle.dumps(make), options, born)


@pytest.fixture
def two(folder: Path) -> Iterator[tuple[Node, Node]]:
    """Two nodes of this machine."""
    nodes = Node("a"), Node("b")
    yield nodes
    for node in nodes:
        node.close()


def test_nodes_of_a_machine_have_one_pool_and_its_targets_are_the_machines(two: tuple[Node, Node]) -> None:
    """Not twice the reserve: what one takes, the other has not. Both say which pool it is, so that it is counted once."""
    for node in two:
        assert node.apply(an_order(1, Targets(2, limit=3))).outcome is Outcome.APPLIED
    pools: list[Any] = [node.get("frames") for node in two]
    assert [(pool.reserve, pool.keep, pool.limit, pool.spare) for pool in pools] == [(2, 4, 3, 2)] * 2
    held = [pools[0].alloc() for _ in range(3)]
    assert pools[1].try_alloc() is None
    for buffer in held:
        pools[0].free(buffer)
    reports = [Report.from_wire(node.report()["frames"]) for node in two]  # type: ignore[arg-type]
    assert reports[0] == reports[1]
    assert reports[0].shared != 0
    assert [node.members["frames"].is_first() for node in two] == [True, False]


@pytest.mark.parametrize("order", [*itertools.permutations([(0, 1), (0, 2), (1, 1), (1, 2)])])
def test_a_node_that_is_behind_takes_no_step_back_for_the_machine(two: tuple[Node, Node], order: Any) -> None:
    """Orders reach the nodes at their own pace. The pool has the latest that any of them had, at each moment."""
    orders = {1: an_order(1, Targets(2)), 2: an_order(2, Targets(5, keep=6))}
    latest = 0
    for node, revision in order:
        outcome = two[node].apply(orders[revision]).outcome
        assert outcome is (Outcome.APPLIED if revision >= latest else Outcome.STALE)
        latest = max(latest, revision)
        pool: Any = two[node].get("frames")
        assert (pool.reserve, pool.keep) == ((2, 4) if latest == 1 else (5, 6))
    assert [node.members["frames"].revision for node in two] == [2, 2]


def test_what_was_recorded_by_a_node_that_was_killed_at_that_moment_is_done_by_the_next(two: tuple[Node, Node]) -> None:
    """The record comes first: the latest revision is in it, though its resize never was."""
    for node in two:
        node.apply(an_order(1, Targets(1)))
    killed: Any = two[0].members["frames"]
    with killed._record.locked():
        killed._record.write(1, 7, Targets(4))
    assert two[1].apply(an_order(5, Targets(2))).outcome is Outcome.STALE
    pool: Any = two[1].get("frames")
    assert pool.reserve == 4
    assert Report.from_wire(two[1].report()["frames"]).revision == 7  # type: ignore[arg-type]


def test_the_last_node_of_the_machine_takes_the_pool_away(folder: Path) -> None:
    """And none before it; nothing is left in the folder."""
    nodes = Node("a"), Node("b")
    for node in nodes:
        node.apply(an_order(1, Targets(2)))
    nodes[0].close()
    assert listing.names() == ["frames"]
    assert nodes[1].apply(an_order(2, Targets(3))).outcome is Outcome.APPLIED
    nodes[1].close()
    assert list(folder.iterdir()) == []


def test_a_pool_of_this_name_that_is_somebody_elses_is_left_alone(two: tuple[Node, Node]) -> None:
    """Of a user's own, and of another fleet's that is used: refused, with the way out. One that nobody uses is replaced."""
    with contextlib.closing(mempool.SharedPool("frames", "8 KiB", 1)) as own:
        said = two[0].apply(an_order(1, Targets(2)))
        assert said.outcome is Outcome.REFUSED
        assert "is one that no fleet has made; give this fleet's another name" in said.detail
        assert own.reserve == 1
        own.unlink()
    assert two[0].apply(an_order(1, Targets(2))).outcome is Outcome.APPLIED
    said = two[1].apply(an_order(9, Targets(2), born=9))
    assert said.outcome is Outcome.REFUSED
    assert f"is another fleet's, and is used: process {os.getpid()}" in said.detail
    two[0].members["frames"].pool.close()
    assert two[1].apply(an_order(10, Targets(3), born=9)).outcome is Outcome.APPLIED


def test_a_pool_is_shared_under_its_own_name_or_another_or_not_at_all() -> None:
    def checked(**options: Any) -> dict[str, Any]:
        return check_options("frames", {"timeout": 5.0, **options})

    assert checked(shared=True) == {"timeout": 5.0, "shared": "frames", "slots": None}
    assert checked(shared="stills", slots=9) == {"timeout": 5.0, "shared": "stills", "slots": 9}
    assert checked(shared=False) == checked(shared=None) == checked() == {"timeout": 5.0}
    with pytest.raises(TypeError, match="slots= is for a pool that is shared"):
        checked(slots=9)


@pytest.mark.parametrize("is_released", [True, False])
def test_a_record_that_is_held_is_tried_again_for_half_a_second(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_released: bool
) -> None:
    """By a clock of the test's: whoever holds it lets go while the other sleeps, or does not."""
    now = [1000.0]

    def pause(seconds: float) -> None:
        now[0] += seconds
        if is_released and now[0] > 1000.2:
            holding.close()

    monkeypatch.setattr(machine, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=pause))
    with contextlib.ExitStack() as holding:
        holding.enter_context(machine.Record("frames").locked())
        outcome = contextlib.nullcontext() if is_released else pytest.raises(machine.HeldUp)
        with outcome, machine.Record("frames").locked():
            assert is_released
    assert 1000.2 < now[0] < 1000.3 if is_released else 1000.5 <= now[0] < 1000.6


def test_only_plain_memory_is_shared(two: tuple[Node, Node]) -> None:
    """Another source is refused by name, and makes nothing."""
    said = two[0].apply(an_order(1, Targets(2), make=functools.partial(Objects, object)))
    assert said.outcome is Outcome.REFUSED
    assert 'its source is Buffers, as in partial(Buffers, "24 MiB"), not Objects' in said.detail
    assert listing.names() == []


def test_a_removed_pool_is_closed_on_all_nodes_of_the_machine_and_may_be_made_anew(two: tuple[Node, Node]) -> None:
    """With an element out, which is good until it is freed; the new one is another pool, also for the node that was late."""
    for node in two:
        node.apply(an_order(1, Targets(2)))
    before: Any = two[1].get("frames")
    held = before.alloc()
    gone = replace(an_order(2, Targets(0)), removed=True)
    said = two[0].apply(gone)
    assert said.outcome is Outcome.APPLIED
    assert said.detail == "1 of its elements is out still, and disposed of when returned"
    with pytest.raises(mempool.PoolClosed):
        before.alloc()
    held[0] = 1
    assert two[0].apply(an_order(3, Targets(1), born=3)).outcome is Outcome.APPLIED
    assert two[1].apply(an_order(3, Targets(1), born=3)).outcome is Outcome.APPLIED
    pools: list[Any] = [node.get("frames") for node in two]
    assert [pool.reserve for pool in pools] == [1, 1]
    assert two[0].members["frames"].report().shared == two[1].members["frames"].report().shared
    before.free(held)
    assert listing.names() == ["frames"]


def hold_all(name: str) -> None:
    """In a child: take everything, say so, and stay."""
    pool = mempool.SharedPool.attach(name)
    held = pool.alloc_many(pool.limit or 1)
    print(len(held), flush=True)
    threading.Event().wait()


@pytest.mark.long_on_both
def test_what_a_killed_process_held_comes_back_with_the_next_heartbeat(two: tuple[Node, Node]) -> None:
    """Nobody waits for it, and nobody asks: `reconcile` looks."""
    node, _ = two
    node.apply(an_order(1, Targets(2, limit=2)))
    pool: Any = node.get("frames")
    child = multiprocessing.get_context("spawn").Process(target=hold_all, args=("frames",), daemon=True)
    child.start()
    wait_until(lambda: pool.stats().out == 2, timeout=60)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(30)

    def reconciled() -> bool:
        for member in node.due():
            member.reconcile()
        return int(pool.stats().spare) == 2

    wait_until(reconciled, timeout=30)


# -- a node that is stopped while it holds the record


def stops_in_the_lock(folder: str, says: str) -> None:
    """In a child: a node that takes revision 2, and is stopped between the record and the pool's change."""
    os.environ["MEMPOOL_SHARED_FOLDER"] = folder
    node = Node("stopped")
    node.apply(an_order(1, Targets(1)))
    retarget = mempool.SharedPool._retarget

    def stopped(*targets: Any) -> bool:
        Path(says).touch()
        os.kill(os.getpid(), signal.SIGSTOP)
        return retarget(*targets)

    mempool.SharedPool._retarget = stopped  # type: ignore[method-assign]
    node.apply(an_order(2, Targets(2)))
    Path(says).unlink()
    threading.Event().wait()


@contextlib.contextmanager
def stopped_in_the_lock(folder: Path, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The pid of such a child, and a file that is there until it has got on."""
    says = tmp_path / "stopped"
    child = multiprocessing.get_context("spawn").Process(
        target=stops_in_the_lock, args=(str(folder), str(says)), daemon=True
    )
    child.start()
    assert child.pid is not None
    try:
        wait_until(lambda: says.exists() and is_stopped(child.pid), timeout=60)
        yield child.pid, says
    finally:
        child.kill()
        child.join(30)


def is_stopped(pid: int | None) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.long_on_both
def test_a_node_that_is_stopped_in_the_lock_holds_the_others_up_for_a_bounded_time(
    two: tuple[Node, Node], folder: Path, tmp_path: Path
) -> None:
    """Real SIGSTOP. A resize is deferred and says by whom; the pool goes on; on SIGCONT all have the latest."""
    node, late = two
    node.apply(an_order(1, Targets(1)))
    with stopped_in_the_lock(folder, tmp_path) as (pid, says):
        began = time.monotonic()
        said = node.apply(an_order(3, Targets(3)))
        took = time.monotonic() - began
        print(f"resize beside a node that is stopped in the lock: {took * 1000:.0f} ms, {said.outcome}: {said.detail}")
        assert said.outcome is Outcome.DEFERRED
        assert (
            f"is held by process {pid}, which is stopped (kill -CONT or kill -9 ends that), for more than 0.5 s"
            in said.detail
        )
        assert took < 0.5 + BUSY
        pool: Any = node.get("frames")
        with pool.lease(timeout=60):
            assert pool.reserve == 1

        # A node that has no pool yet cannot make it now: it is not refused for good.
        said = late.apply(an_order(3, Targets(3)))
        assert said.outcome is Outcome.PENDING
        assert f"is held by process {pid}" in late.why("frames")
        report = late.report()["frames"]
        assert list(report[:2]) == [0, int(Outcome.PENDING)]
        assert f"process {pid}" in str(report[-1])

        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not says.exists(), timeout=30)
        node.members["frames"].hurry()
        assert node.members["frames"].reconcile() is Outcome.APPLIED
        assert late.apply(an_order(3, Targets(3))).outcome is Outcome.APPLIED
        assert pool.reserve == 3
        assert late.why("frames") == ""


@pytest.mark.long_on_both
def test_a_node_that_is_stopped_in_the_lock_may_be_killed_and_the_others_go_on(
    two: tuple[Node, Node], folder: Path, tmp_path: Path
) -> None:
    """The kernel takes the lock from it. Whoever was held up gets on at the next try, also with a removal."""
    node, other = two
    for one in two:
        one.apply(an_order(1, Targets(1)))
    with stopped_in_the_lock(folder, tmp_path) as (pid, _):
        gone = replace(an_order(3, Targets(0)), removed=True)
        assert node.apply(gone).outcome is Outcome.PENDING
        assert node.get("frames") is not None, "it is not half removed"
        began = time.monotonic()
        other.close()
        assert time.monotonic() - began < 0.5 + BUSY
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: node.apply(gone).outcome is Outcome.APPLIED, timeout=30)
    assert listing.names() == []


def test_a_child_that_is_forked_within_the_lock_does_not_hold_it(folder: Path) -> None:
    """It has the descriptor, and lives on: the lock is given back all the same."""
    record = machine.Record("frames")
    with record.locked():
        child = os.fork()
        if child == 0:
            threading.Event().wait()
    try:
        with machine.Record("frames").locked():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# -- on Dask


def hold_until_killed(name: str) -> None:
    pool: Any = mempool.get(name)
    held = pool.alloc_many(2)
    Path(os.environ["MEMPOOL_SHARED_FOLDER"], f".held-{os.getpid()}").touch()
    threading.Event().wait()
    del held


def spare_of(name: str) -> tuple[str, int]:
    pool: Any = mempool.get(name)
    return type(pool).__name__, pool.stats().spare


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals of Linux")
def test_workers_of_a_cluster_share_the_pool_of_their_machine_and_one_is_killed(
    cluster: Callable[..., Any], folder: Path
) -> None:
    """Three processes, one pool, counted once. One is killed with elements of it: they come back; its successor joins."""
    pytest.importorskip("distributed", reason="mempool[dask] is not installed")
    from mempool.fleet.dask import Fleet

    with cluster(3, processes=True) as (_, client):
        fleet = Fleet(client)
        frames = fleet.create("frames", MAKE, reserve=4, limit=6, shared=True)
        assert frames.answer().wait(timeout=60).is_applied
        assert frames.resize(reserve=5).wait(timeout=60).is_applied
        assert listing.names() == ["frames"]
        wait_until(lambda: fleet.stats().total("frames", "spare") == 5, timeout=30)
        row = str(fleet.stats()).splitlines()[1].split()
        assert row == ["frames", "0,", "1,", "2", "5", "6", "5", "0", "0", "0", "APPLIED"]
        addresses = {str(info["name"]): address for address, info in client.scheduler_info(n_workers=-1)["workers"].items()}
        victim = client.run(os.getpid, workers=[addresses["1"]])[addresses["1"]]
        task = client.submit(hold_until_killed, "frames", workers=[1], pure=False, retries=0)
        wait_until((folder / f".held-{victim}").exists, timeout=60)
        wait_until(lambda: fleet.stats().total("frames", "out") == 2, timeout=30)
        task.cancel(force=True)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: fleet.stats().total("frames", "out") == 0, timeout=60)
        client.wait_for_workers(3, timeout=60)
        wait_until(lambda: frames.answer().is_applied and len(frames.answer().nodes) == 3, timeout=60)
        kind, spare = client.submit(spare_of, "frames", workers=[1], pure=False).result(60)
        assert kind == "SharedPool"
        assert spare >= 5
        assert fleet.remove("frames").is_applied
        assert listing.names() == []
