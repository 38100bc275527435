"""From outside, in Python: which processes show pools, their figures, and what they answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mempool.engine import Snapshot
from mempool.stats import Guarantee, PoolStats, guarantee_of, stats_of
from mempool.watch import client
from mempool.watch.directory import WatchError
from mempool.watch.layout import Figures
from mempool.watch.reader import Page, Reader

#: Seconds that a resize may take before its process is told to be silent: it makes elements.
RESIZE_PATIENCE = 30.0


def snapshot_of(figures: Figures) -> Snapshot:
    """The same numbers as the pool itself has them."""
    same = {field: getattr(figures, field) for field in Snapshot._fields if hasattr(figures, field)}
    return Snapshot(**same, being_made=figures.claimed, source_said=figures.said, source_rests=0.0)


class PoolView:
    """A pool of another process: its figures when it was looked at, and what its process does for it."""

    def __init__(self, page: Page, figures: Figures) -> None:
        self._page = page
        self._figures = figures

    @property
    def name(self) -> str:
        """The pool's name, without what a terminal would obey."""
        return self._figures.name

    @property
    def number(self) -> int:
        """Which pool of its process it is: the first is 1."""
        return self._figures.number

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._page.pid

    @property
    def element_bytes(self) -> int | None:
        """Of an element, where its source is `Buffers`; None: unknown."""
        return self._figures.element_bytes or None

    def stats(self) -> PoolStats:
        """What the pool was when its page was read: all of one moment."""
        return stats_of(self._figures.name, snapshot_of(self._figures))

    def guarantee(self) -> Guarantee:
        """What it promised then, and what covered it."""
        return guarantee_of(snapshot_of(self._figures))

    def why(self, *, patience: float = client.PATIENCE) -> str:
        """`why_empty` of that pool, now. Raises NoAnswer where its process takes no commands, or does not answer."""
        answer = self._ask("why", patience)
        told = ". ".join([str(answer["why"]), *map(str, answer.get("steered", ()))])
        return f"{told}." if answer.get("steered") else told

    def holders(self, *, patience: float = client.PATIENCE) -> list[str]:
        """Who holds its elements, as text. Raises NoAnswer."""
        return list(map(str, self._ask("holders", patience)["holders"]))

    def resize(
        self,
        reserve: int | None = None,
        *,
        keep: int | None = None,
        limit: int | None = None,
        expect: int | None = None,
        patience: float = RESIZE_PATIENCE,
    ) -> dict[str, Any]:
        """`resize` of that pool. Returns what is promised, spare and unfunded when it is done.

        expect: the reserve that it must have for this to happen: of two who steer at the same time, the second is refused.
        patience: seconds, after which it is no longer waited for; it goes on all the same.

        Raises Refused, and NoAnswer.
        """
        targets = {"reserve": reserve, "keep": keep, "limit": limit, "expect": expect}
        given = {name: number for name, number in targets.items() if number is not None}
        return self._ask("resize", patience, **given)

    def refill(self, *, patience: float = RESIZE_PATIENCE) -> dict[str, Any]:
        """`refill` of that pool; as `resize`."""
        return self._ask("refill", patience)

    def _ask(self, verb: str, patience: float, **request: Any) -> dict[str, Any]:
        if not self._page.has_socket:
            raise client.NoAnswerError(
                f"process {self.pid} takes no commands: run it with MEMPOOL_WATCH=steer, or publish(steer=True) in it"
            )
        return client.ask(self._page.socket_path, verb, patience=patience, number=self.number, **request)

    def __repr__(self) -> str:
        f = self._figures
        return f"<PoolView {f.name!r} of process {self.pid}: reserve={f.reserve}, {f.spare} spare, {f.out} out>"


class Process:
    """A process that shows its pools."""

    def __init__(self, page: Page) -> None:
        self._page = page

    @property
    def pid(self) -> int:
        """In the process's own namespace."""
        return self._page.pid

    @property
    def program(self) -> str:
        """What it runs; empty where its page cannot be read."""
        return "" if self._page.header is None else self._page.header.argv0

    @property
    def why_unreadable(self) -> str:
        """Why its page cannot be read, "newer, layout 2" for example; empty: it can."""
        return self._page.why

    @property
    def takes_commands(self) -> bool:
        """Whether it was published with `steer`."""
        return self._page.has_socket

    @property
    def pools(self) -> tuple[PoolView, ...]:
        """Its pools as they were when its page was read."""
        return tuple(PoolView(self._page, figures) for figures in self._page.pools)

    def __repr__(self) -> str:
        return f"<Process {self.pid} {self.program!r}: {len(self._page.pools)} pools>"


def processes(directory: str | None = None) -> Iterator[Process]:
    """Each process of this user that shows its pools and lives. directory: see publish.

    Raises WatchError where the directory is unfit.
    """
    return map(Process, Reader(directory).pages())


def find(target: str, directory: str | None = None) -> PoolView:
    """The pool that `name`, `name@pid`, `name#number` or `name#number@pid` means. Raises WatchError: none, or several."""
    found = [
        pool
        for process in processes(directory)
        for pool in process.pools
        if is_meant(target, pool.name, pool.number, str(pool.pid))
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise WatchError(f"no process shows a pool {target!r}; `mempool ls` lists those that do")
    which = ", ".join(f"{pool.name}#{pool.number}@{pool.pid}" for pool in found[:8])
    raise WatchError(f"{len(found)} pools are meant by {target!r}: {which}; name one of them so")


def is_meant(target: str, name: str, number: int, where: str) -> bool:
    """Whether `target` means this pool: by its name alone, its number in its process, its process, or by all three.

    A name may have an @ or a # itself, so the name is looked for and not cut out.
    """
    return target in {name, f"{name}@{where}", f"{name}#{number}", f"{name}#{number}@{where}"}
