"""The half on the scheduler: the Controller, its orders to workers, what their heartbeats say, and the file of the state.

The scheduler never loads a source: it is bytes here. Nothing here waits for a worker without a limit.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import pickle
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

import click
from distributed.diagnostics.plugin import SchedulerPlugin

from mempool.fleet.controller import Controller
from mempool.fleet.dask import internals, metrics
from mempool.fleet.dask.worker import NAME, FleetWorkerPlugin
from mempool.fleet.node import check_options, check_targets, split_reason
from mempool.fleet.statefile import StateFile
from mempool.fleet.threads import in_thread
from mempool.fleet.values import Answer, Order, Outcome, Report, Standing, Targets

log: logging.Logger = logging.getLogger("mempool.fleet")

#: Seconds until an order to one worker counts as lost. The worker may have it all the same.
SEND_SECONDS = 2.0
#: The same for a worker that has not answered before, at most.
SEND_SECONDS_MAX = 30.0
#: Seconds in which a worker answers; what is not done by then it says in a heartbeat.
WITHIN_SECONDS = 1.0
#: Seconds between two looks at the heartbeats that have come.
LOOK_SECONDS = 0.1
#: Seconds until the file of the state is written again, where that has failed.
SAVE_AGAIN_SECONDS = 5.0
#: Seconds that a new worker has to make its pools by itself.
GRACE_SECONDS = 2.0

#: What a client raises when it is refused.
REFUSALS: dict[str, type[Exception]] = {"lookup": LookupError, "type": TypeError, "value": ValueError, "os": OSError}


@dataclass(slots=True)
class _Sent:
    """An order on its way to a worker."""

    revision: int
    task: asyncio.Task[None]
    at: float

    def is_under_way(self) -> bool:
        return not self.task.done() and not self.task.cancelling()


class FleetSchedulerPlugin(SchedulerPlugin):  # type: ignore[misc]  # distributed has no types
    """What keeps the pools of all workers at the latest revision. path: the file of the state; None: no file."""

    name: str = NAME
    idempotent: bool = True  # each client registers it

    def __init__(self, path: str | None = None) -> None:
        self._path: str | None = path

    async def start(self, scheduler: Any) -> None:
        """Begin, with what the file says."""
        internals.check(scheduler, "Scheduler")
        self._loop = asyncio.get_running_loop()
        self._scheduler = scheduler
        self._workers = internals.Connections(scheduler)
        await self._workers.start()
        self._file = None if self._path is None else StateFile(self._path)
        self._saving = asyncio.Lock()
        self._saves: set[asyncio.Task[None]] = set()
        self._save_again_at: float | None = None  # None: what is in the file is what is wanted, or it is being written
        self._sent: dict[tuple[str, str], _Sent] = {}  # the latest, by worker and pool
        self._packed: dict[str, tuple[int, bytes]] = {}  # by pool: the latest revision, for all workers
        self._seen: dict[str, float] = {}
        self._faults: dict[str, str] = {}
        self._fitted: set[str] = set()  # workers that take orders
        self._patience: dict[str, float] = {}  # seconds, for workers that have not answered
        self._within = WITHIN_SECONDS
        self._is_waking = False
        self._watchers: set[asyncio.Future[None]] = set()
        orders = self._file.load() if self._file else []
        self.controller: Controller = Controller(self, changed=self._wake)
        self.controller.restore(orders)
        if orders:
            self._prepare_later_workers()
            log.info("%s: %d pools of the fleet are wanted again", self._path, len(orders))
        for address in scheduler.workers:
            self.controller.joined(address)
        handlers = (
            *(self.mempool_create, self.mempool_resize, self.mempool_refill, self.mempool_remove),
            *(self.mempool_answer, self.mempool_stats),
        )
        internals.add_scheduler_handlers(scheduler, {handler.__name__: _asked(handler) for handler in handlers})
        metrics.add_fleet(self)
        self._running = asyncio.ensure_future(self._run())

    async def before_close(self) -> None:
        """End. The workers' pools end with the workers."""
        metrics.forget_fleet(self)
        self._running.cancel()
        for sent in list(self._sent.values()):
            sent.task.cancel()
        await self._workers.close()

    def add_worker(self, scheduler: Any, worker: str) -> None:
        """A worker registers; it sets its pools up next."""
        self.controller.joined(worker, grace=GRACE_SECONDS)

    def remove_worker(self, scheduler: Any, worker: str, **_: Any) -> None:
        """A worker has gone."""
        self.controller.left(worker)
        self._seen.pop(worker, None)
        self._faults.pop(worker, None)
        self._fitted.discard(worker)
        self._patience.pop(worker, None)
        for key in [key for key in self._sent if key[0] == worker]:
            self._sent.pop(key).task.cancel()
        self._workers.forget(worker)

    # -- what a controller needs of an engine

    def now(self) -> float:
        """See Transport."""
        return self._loop.time()

    def send(self, node: str, order: Order) -> None:
        """See Transport."""
        key = node, order.pool
        sent = self._sent.get(key)
        if sent is not None and sent.is_under_way() and sent.revision >= order.revision:
            return  # a worker that is stopped has it in its inbox
        task = self._loop.create_task(self._deliver(node, order, self._within))
        self._sent[key] = _Sent(order.revision, task, self._loop.time())

    def _give_up(self) -> None:
        """Those who have not answered in time count as unreachable. They may have the order all the same."""
        now = self._loop.time()
        for (node, pool), sent in list(self._sent.items()):
            seconds = self._patience.get(node, SEND_SECONDS)
            if sent.is_under_way() and now - sent.at >= seconds:
                # Nobody waits for the end of it: to close the connection to a stopped process may have to wait itself.
                sent.task.cancel()
                # A machine that is so busy that no answer comes in time would be made busier by each try, and never get
                # there.
                self._patience[node] = min(2 * seconds, SEND_SECONDS_MAX)
                standing = Standing(Outcome.UNREACHABLE, f"no answer within {seconds:g} s")
                self.controller.answered(node, pool, sent.revision, standing)

    async def _deliver(self, node: str, order: Order, within: float) -> None:
        packed = self._packed_order(order)
        try:
            answer = None
            if node in self._fitted or NAME in self._scheduler.workers[node].metrics:
                answer = await self._workers.call(node, "mempool_apply", order=packed, within=within)
            if answer is None:  # this worker runs since before there was a fleet
                plugin = pickle.dumps(FleetWorkerPlugin([]))
                said = await self._workers.call(node, internals.PLUGIN_ADD, plugin=plugin, name=NAME)
                if said.get("status") != "OK":
                    raise RuntimeError(f"the plugin cannot be set up there: {said.get('exception_text', said)}")
                answer = await self._workers.call(node, "mempool_apply", order=packed, within=within)
            self._fitted.add(node)
            self._patience.pop(node, None)
            standing = Standing.from_wire(internals.unpacked(answer))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            standing = Standing(Outcome.UNREACHABLE, f"{type(error).__name__}: {error}")
        self.controller.answered(node, order.pool, order.revision, standing)

    def _packed_order(self, order: Order) -> bytes:
        """An order as it travels: packed once for all workers."""
        revision, packed = self._packed.get(order.pool, (0, b""))
        if revision != order.revision:
            packed = internals.packed(order.as_wire())
            self._packed[order.pool] = order.revision, packed
        return packed

    async def _run(self) -> None:
        """Compare with each heartbeat, and try again, until the scheduler ends."""
        while True:
            try:
                self._look()
                self._give_up()
                if self._save_again_at is not None and self._loop.time() >= self._save_again_at:
                    self._begin_to_save()
                self.controller.tick()
            except Exception:
                log.exception("the fleet's controller")
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        for address, worker in list(self._scheduler.workers.items()):
            if self._seen.get(address) == worker.last_seen:
                continue
            self._seen[address] = worker.last_seen
            told = worker.metrics.get(NAME)
            if told is None:
                continue  # it has not set its pools up yet, or runs since before there was a fleet
            reports, reasons, faults = {}, {}, {}
            for pool, wire in told.items():
                numbers, reason = split_reason(wire)
                if reason:
                    reasons[pool] = reason
                try:
                    reports[pool] = Report.from_wire(numbers)
                except (TypeError, ValueError):
                    faults[pool] = str(wire)
            self._faults[address] = "; ".join(faults.values())
            if "" not in faults:
                self.controller.heard(address, reports, reasons | faults)

    def _wake(self) -> None:
        # Once for all answers that have come together: each waiter looks at every worker.
        if not self._is_waking:
            self._is_waking = True
            self._loop.call_soon(self._wake_now)

    def _wake_now(self) -> None:
        self._is_waking = False
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    async def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        deadline = self._loop.time() + timeout
        while not condition():
            left = deadline - self._loop.time()
            if left <= 0:
                return False
            watcher: asyncio.Future[None] = self._loop.create_future()
            self._watchers.add(watcher)
            try:
                await asyncio.wait({watcher}, timeout=left)
            finally:
                self._watchers.discard(watcher)
        return True

    # -- what clients ask

    async def mempool_create(
        self,
        pool: str,
        source: bytes,
        targets: list[int | None],
        options: Mapping[str, Any],
        timeout: float,
    ) -> dict[str, Any]:
        """Make a pool on each worker; where it is there already, from the same source, give it these targets."""
        wanted = check_targets(pool, _targets(targets))
        options = check_options(pool, options)
        there = None if self.controller.is_removed(pool) else self.controller.wanted.get(pool)
        if there is not None and (there.source, dict(there.options)) != (source, options):
            raise ValueError(
                f"the fleet has a pool {pool!r} already, with another source or other options, which no resize changes; "
                "take another name"
            )
        return await self._want(Order(pool, 0, wanted, source, options), timeout)

    async def mempool_resize(self, pool: str, targets: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Give a pool other targets. targets: those that change."""
        there = self.controller.order_for(pool)
        wanted = check_targets(pool, replace(there.targets, **targets))
        return await self._want(replace(there, targets=wanted), timeout)

    async def mempool_remove(self, pool: str, timeout: float) -> dict[str, Any]:
        """Have no worker have this pool any more."""
        return await self._ordered(pool, functools.partial(self.controller.remove, pool), timeout)

    async def _want(self, order: Order, timeout: float) -> dict[str, Any]:
        return await self._ordered(order.pool, functools.partial(self.controller.want, order), timeout)

    async def _ordered(self, pool: str, want: Callable[[], int], timeout: float) -> dict[str, Any]:
        deadline = self._loop.time() + timeout
        self._within = min(WITHIN_SECONDS, timeout / 2)
        revision = want()
        self._prepare_later_workers()
        await self._saved(pool, revision, deadline - self._loop.time())
        await self._wait(lambda: self.controller.is_known(pool), deadline - self._loop.time())
        return self._answer(self.controller.answer(pool, revision))

    def _prepare_later_workers(self) -> None:
        plugin = FleetWorkerPlugin([order.as_wire() for order in self.controller.wanted.values() if not order.removed])
        internals.set_plugin_of_later_workers(self._scheduler, NAME, pickle.dumps(plugin))

    async def _saved(self, pool: str, revision: int, timeout: float) -> None:
        """What is wanted is in the file. Raises OSError where that fails, or takes longer than the call may."""
        if self._file is None:
            return
        save = self._begin_to_save()
        await asyncio.wait({save}, timeout=max(0.0, timeout))
        error = save.exception() if save.done() else TimeoutError("that takes too long")
        if error is not None:
            raise OSError(
                f"pool {pool!r} of the fleet: revision {revision} is on its way to the workers, but not in {self._path} "
                f"({type(error).__name__}: {error}): a scheduler that begins now knows nothing of it. It is written as soon "
                "as that can be done"
            )

    def _begin_to_save(self) -> asyncio.Task[None]:
        self._save_again_at = None
        task = self._loop.create_task(self._save())
        self._saves.add(task)
        task.add_done_callback(self._save_is_over)
        return task

    def _save_is_over(self, task: asyncio.Task[None]) -> None:
        self._saves.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s cannot be written: %s: %s", self._path, type(error).__name__, error)
            self._save_again_at = self._loop.time() + SAVE_AGAIN_SECONDS

    async def _save(self) -> None:
        assert self._file is not None
        async with self._saving:  # in the order in which they are wanted
            orders = list(self.controller.wanted.values())
            await in_thread(functools.partial(self._file.save, orders))

    async def mempool_refill(self, pool: str, timeout: float) -> dict[str, Any]:
        """Have each worker try to make what is unfunded."""
        order = self.controller.order_for(pool)
        within = min(WITHIN_SECONDS, timeout / 2)

        async def ask(node: str) -> tuple[str, Standing]:
            try:
                call = self._workers.call(node, "mempool_refill", pool=pool, within=within)
                return node, Standing.from_wire(internals.unpacked(await _bounded(call, timeout)))
            except Exception as error:  # noqa: BLE001 - it is the answer
                return node, Standing(Outcome.UNREACHABLE, f"{type(error).__name__}: {error}")

        standings = dict(await asyncio.gather(*map(ask, self.controller.nodes)))
        return self._answer(Answer(pool, order.revision, standings))

    async def mempool_answer(self, pool: str, revision: int, timeout: float) -> dict[str, Any]:
        """Wait until each worker is there, or one refuses, and say how it stands. revision: 0 for the latest."""
        revision = revision or self.controller.order_for(pool).revision  # of a removed one somebody asks by its number

        def is_over() -> bool:
            answer = self.controller.answer(pool, revision)
            return answer.is_applied or answer.count(Outcome.REFUSED) > 0

        await self._wait(is_over, timeout)
        return self._answer(self.controller.answer(pool, revision))

    async def mempool_stats(self) -> dict[str, Any]:
        """How it stands, as far as the last heartbeats say."""
        answers = [self._answer(self.controller.answer(pool, rev)) for pool, rev in self.revisions().items()]
        return {"pools": answers, "faults": {self._name(node): fault for node, fault in self._faults.items() if fault}}

    def _answer(self, answer: Answer) -> dict[str, Any]:
        nodes: dict[str, list[Any]] = {}
        for node, standing in answer.nodes.items():
            name = self._name(node)
            if name in nodes:  # Dask tells the names 1 and "1" apart
                name = f"{name} at {node}"
            nodes[name] = standing.as_wire()
        return {"pool": answer.pool, "revision": answer.revision, "nodes": internals.packed(nodes)}

    def _name(self, node: str) -> str:
        worker = self._scheduler.workers.get(node)
        return node if worker is None else str(worker.name)

    # -- what the metrics show, also to another thread than the loop's: see test_metrics_are_collected_while_a_fleet_changes

    def revisions(self) -> dict[str, int]:
        """The latest of each pool; of one that was removed for as long as a worker still has something of it."""
        return {
            pool: order.revision
            for pool, order in list(self.controller.wanted.items())
            if not order.removed or self._has_remains(pool, order.revision)
        }

    def _has_remains(self, pool: str, revision: int) -> bool:
        standings = self.controller.answer(pool, revision).nodes.values()
        return any(
            standing.outcome is not Outcome.APPLIED or (standing.report is not None and standing.report.out)
            for standing in standings
        )

    def rows(self, revisions: Mapping[str, int]) -> list[metrics.Row]:
        """What is known of each of these pools, of each worker."""
        rows, counted = [], set()
        for pool, revision in revisions.items():
            for node, standing in self.controller.answer(pool, revision).nodes.items():
                token = standing.report.shared if standing.report is not None else 0
                if token and (pool, token) in counted:  # one pool of a machine: its figures count once
                    standing = replace(standing, report=None)  # noqa: PLW2901 - the row without figures
                counted.add((pool, token))
                rows.append((self._name(node), pool, standing))
        return rows


def _targets(wire: list[int | None]) -> Targets:
    reserve, keep, limit = wire
    return Targets(reserve, keep, limit)  # type: ignore[arg-type]  # check_targets says so


def _asked(handler: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """A handler whose refusals are an answer: a user's mistake is no traceback in the scheduler's log, and no pickle."""

    @functools.wraps(handler)
    async def answer(**message: Any) -> Any:
        try:
            return await handler(**message)
        except (LookupError, OSError, TypeError, ValueError) as refusal:
            kind = next(kind for kind in REFUSALS if isinstance(refusal, REFUSALS[kind]))
            return {"refused": [kind, str(refusal.args[0])]}

    return answer


async def _bounded(call: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """The result of a call. Raises TimeoutError after so many seconds, whether or not its cancellation comes to an end.

    `asyncio.timeout` would wait for that, and to close the connection to a stopped process may itself have to wait.
    """
    task = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        raise TimeoutError(f"no answer within {seconds:g} s")
    return task.result()


@click.command()
@click.option("--mempool-state", "path", metavar="FILE", envvar="MEMPOOL_FLEET_STATE", help="Where the state is kept.")
def dask_setup(scheduler: Any, path: str | None) -> None:
    """`dask scheduler --preload mempool.fleet.dask.scheduler --mempool-state FILE`: begin with what the file says."""
    if path is None:
        log.warning("no --mempool-state FILE: the fleet's pools are forgotten when this scheduler ends")
    else:
        path = os.fspath(path)
    scheduler.add_plugin(FleetSchedulerPlugin(path))
