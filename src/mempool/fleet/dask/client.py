"""Fleet: the pools of all workers of a Dask cluster, from a client. What they shall be is kept on the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, cast

import cloudpickle
from distributed import Client

from mempool.fleet.dask import internals
from mempool.fleet.dask.scheduler import REFUSALS, FleetSchedulerPlugin
from mempool.fleet.dask.worker import NAME
from mempool.fleet.node import check_options, check_targets
from mempool.fleet.values import Answer, Outcome, Standing, Targets, shortened

#: Seconds that a call waits for the workers' answers, where it does not say.
TIMEOUT = 10.0


@dataclass(frozen=True)
class FleetStats:
    """How the pools of a fleet stand, as the last heartbeats say: `print(stats)` is a table, a row per pool and worker."""

    pools: Mapping[str, Answer]
    """What is wanted of each pool, and each worker's standing, by the pool's name."""
    faults: Mapping[str, str]
    """What could not be reported, by the worker's name."""

    def total(self, pool: str, field: str) -> int:
        """A figure of a pool's reports, over all workers: `stats.total("staging", "spare")`. A shared pool counts once."""
        reports = (self.pools[pool].nodes[names[0]].report for names in rows_of(self.pools[pool]))
        return sum(getattr(report, field) for report in reports if report is not None)

    def __str__(self) -> str:
        head = ("POOL", "WORKER", "PROMISE", "LIMIT", "SPARE", "OUT", "LINE", "UNFUNDED", "STATE")
        rows: list[tuple[str, ...]] = [head]
        for pool, answer in self.pools.items():
            for names in rows_of(answer):
                r = answer.nodes[names[0]].report
                figures = ("-",) * 6 if r is None else (r.reserve, r.limit, r.spare, r.out, r.waiting, r.unfunded)
                shown = ["-" if figure is None else str(figure) for figure in figures]
                worst = max(answer.nodes[name].outcome for name in names)
                rows.append((pool, shortened(names), *shown, str(worst).upper()))
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        left = {0, 1, len(head) - 1}
        lines = [
            "  ".join(
                cell.ljust(width) if column in left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines += [
            f"{pool} on {who} is {answer.nodes[who].outcome}: {why}"
            for pool, answer in self.pools.items()
            for who, why in answer.reasons().items()
            if who not in self.faults
        ]
        return "\n".join(printable(line) for line in [*lines, *(f"{who}: {what}" for who, what in self.faults.items())])


def rows_of(answer: Answer) -> list[list[str]]:
    """The workers' names, row by row: together those that share the pool of their machine, the latest report first."""
    rows: dict[object, list[str]] = {}
    for name in answer.names(*Outcome):
        report = answer.nodes[name].report
        shared = report.shared if report is not None else 0
        rows.setdefault(shared or name, []).append(name)

    def revision(name: str) -> int:
        report = answer.nodes[name].report
        return 0 if report is None else -report.revision

    return [sorted(names, key=revision) for names in rows.values()]


def printable(text: str) -> str:
    """Names are other people's words: nothing in them moves a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)


class FleetPool:
    """One pool of a fleet: as many pools of this name as there are workers. `Fleet.create` and `fleet[name]` make it."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet = fleet
        """Whose it is."""
        self.name = name
        """Of the pool on each worker: there, `mempool.get(name)` is that pool."""

    def resize(
        self,
        reserve: int | None = None,
        *,
        keep: int | None | EllipsisType = ...,
        limit: int | None | EllipsisType = ...,
        timeout: float = TIMEOUT,
    ) -> Answer:
        """Give the pool of each worker, and of each that comes later, other targets. Live: nothing is torn down.

        reserve, keep, limit: as for `Pool.resize`, for one worker; what is not given stays. keep=None: twice the reserve
            again. limit=None: no limit.
        timeout: seconds for the workers' answers. Who has not answered by then is sent the order again, and is in what is
            returned as unreachable, which does not mean that it has not got it.

        Returns at once when all have answered. Raises ValueError or TypeError for what makes no sense, and LookupError where
        there is no such pool; nothing has changed then. A worker whose memory lacks is no error, but `deferred`.
        """
        targets = {"reserve": ... if reserve is None else reserve, "keep": keep, "limit": limit}
        given = {what: number for what, number in targets.items() if number is not ...}
        return cast("Answer", self._ask("mempool_resize", targets=given, timeout=timeout))

    def refill(self, *, timeout: float = TIMEOUT) -> Answer:
        """Have each worker try now to make what is unfunded. They try by themselves, too, later and later."""
        return cast("Answer", self._ask("mempool_refill", timeout=timeout))

    def answer(self) -> Answer:
        """What has become of the latest revision, as far as it is known."""
        return cast("Answer", self._ask("mempool_answer", revision=0, timeout=0.0))

    def _ask(self, handler: str, **message: Any) -> Any:
        return self.fleet._sync(self._ask_async, handler, message)

    async def _ask_async(self, handler: str, message: Mapping[str, Any]) -> Answer:
        return self._read(await self.fleet._call(handler, pool=self.name, **message))

    def _read(self, wire: Mapping[str, Any]) -> Answer:
        revision = wire["revision"]

        def ask(timeout: float) -> Any:
            return self.fleet._sync(self._look_async if timeout < 0 else self._wait_async, revision, timeout)

        return _answer(wire, ask)

    async def _look_async(self, revision: int, _timeout: float) -> Answer:
        return await self._ask_async("mempool_answer", {"revision": revision, "timeout": 0.0})

    async def _wait_async(self, revision: int, timeout: float) -> Answer:
        message = {"revision": revision, "timeout": timeout}
        answer = await self._ask_async("mempool_answer", message)
        if not answer.is_applied:
            raise TimeoutError(f"pool {self.name!r} of the fleet after {timeout:g} s: {answer}")
        return answer

    def __repr__(self) -> str:
        return f"<FleetPool {self.name!r}>"


class Fleet:
    """Pools on the workers of a Dask cluster. Any number of these may look at one cluster; none holds anything.

        fleet = Fleet(Client("tcp://farm:8786"))
        staging = fleet.create("staging", partial(Buffers, "24 MiB"), reserve=16, limit=20)
        answer = staging.resize(reserve=48, limit=64)
        print(answer)                 # revision ...: 37 applied, 3 deferred (farm-07, -11, -30)
        answer.wait(timeout=60)

    client: a `distributed.Client`. With an asynchronous one, each method returns what is awaited.

    mempool must be installed where the scheduler and the workers run. The state is lost with the scheduler unless that was
    started with `--preload mempool.fleet.dask.scheduler --mempool-state FILE`.
    """

    def __init__(self, client: Client) -> None:
        internals.check(client, "Client")
        self.client = client
        """The client."""
        self._is_ready = False

    def create(
        self,
        name: str,
        make: Callable[[], Any],
        *,
        reserve: int,
        keep: int | None = None,
        limit: int | None = None,
        timeout: float = 60.0,
        max_waiting: int | None = None,
        track: str | None = None,
        patience: float | None = 10.0,
        offload: bool = False,
        shared: bool | str = False,
        slots: int | None = None,
        answer_within: float = TIMEOUT,
    ) -> FleetPool:
        """Make a pool of this name on each worker, and on each that comes later. Returns when all have answered.

        make: makes the source, on each worker: `partial(Buffers, "24 MiB")`. It travels pickled, and only workers load it.
        reserve, keep, limit, max_waiting, track, patience, offload: as for `Pool`, for one worker.
        timeout: what a task waits for an element at most. Finite, because an element that a task returns stays out for as
            long as its result is kept: a task that needs four such results of a pool of two would wait for ever.
        shared: True: the workers of one user on one machine share one pool, a `SharedPool`, and the targets are those of
            that one. It is made by the first of them and goes with the last; what a killed worker held is returned. `make`
            says how large an element is: `partial(Buffers, "24 MiB")`. A str: what the pool is called on the machine,
            where `name` is taken there.
        slots: for a shared pool: see `SharedPool`. It cannot be changed later; None: four times the limit.
        answer_within: seconds for the workers' answers.

        A worker without memory for the reserve has a pool of what there is, and says `deferred`: `fleet[name].answer()`.
        Where there is a pool of this name from the same source, it is given these targets. Raises ValueError for another
        source, and for what makes no sense.
        """
        options = check_options(
            name,
            {
                "timeout": timeout,
                "max_waiting": max_waiting,
                "track": track,
                "patience": patience,
                "offload": offload,
                "shared": shared,
                "slots": slots,
            },
        )
        targets = check_targets(name, Targets(reserve, keep, limit))
        if not callable(make):
            raise TypeError(
                f"pool {name!r} of the fleet: what makes a source is called on each worker, and {make!r} is no function; "
                'give it one, e.g. partial(Buffers, "24 MiB")'
            )
        message = {
            "pool": name,
            "source": cloudpickle.dumps(make),
            "targets": [targets.reserve, targets.keep, targets.limit],
            "options": options,
            "timeout": answer_within,
        }
        return cast("FleetPool", self._sync(self._create, name, message))

    async def _create(self, name: str, message: Mapping[str, Any]) -> FleetPool:
        await self._call("mempool_create", **message)
        return FleetPool(self, name)

    def remove(self, name: str, *, timeout: float = TIMEOUT) -> Answer:
        """Close the pool of this name on each worker; later ones have none. Returns when all have answered.

        Tasks that hold an element go on, and it is disposed of when it is returned; the answer says how many those are. Who
        waits for one gets PoolClosed. A worker that cannot be reached closes its own when it is heard of again. A pool of
        this name may be created anew, with another source. Raises LookupError where there is none.
        """
        return cast("Answer", self._sync(FleetPool(self, name)._ask_async, "mempool_remove", {"timeout": timeout}))

    def __getitem__(self, name: str) -> FleetPool:
        """The pool of this name, whoever has created it."""
        return FleetPool(self, name)

    def stats(self) -> FleetStats:
        """How all pools stand, as the last heartbeats say: some seconds old, where there are hundreds of workers."""
        return cast("FleetStats", self._sync(self._stats))

    async def _stats(self) -> FleetStats:
        wire = await self._call("mempool_stats")
        return FleetStats({answer["pool"]: _answer(answer, None) for answer in wire["pools"]}, wire["faults"])

    async def _call(self, handler: str, **message: Any) -> Any:
        if not self._is_ready:
            await self.client.register_plugin(FleetSchedulerPlugin(), name=NAME)  # once: it is idempotent
            self._is_ready = True
        answer = await internals.call_scheduler(self.client, handler, **message)
        if "refused" in answer:
            kind, said = answer["refused"]
            raise REFUSALS[kind](said)
        return answer

    def _sync(self, function: Callable[..., Any], *args: Any) -> Any:
        return internals.sync(self.client, function, *args)

    def __repr__(self) -> str:
        return f"<Fleet of {self.client!r}>"


def _answer(wire: Mapping[str, Any], ask: Callable[[float], Any] | None) -> Answer:
    nodes = {name: Standing.from_wire(standing) for name, standing in internals.unpacked(wire["nodes"]).items()}
    return Answer(wire["pool"], wire["revision"], nodes, ask)
