"""A Hypothesis machine: a real pool and its shadow (shadow.py) are told the same, and must agree after every step.

The clock stands still while anybody waits, so nobody asks the source by himself; callers wait as tasks of a loop that runs
only in between.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from shadow import Shadow
from sweeps import LONG

from mempool import Buffers, Pool, PoolClosed, PoolError, PoolTimeout
from mempool.testing import Element, ManualClock, ScriptedSource, SourceBroken, Step

works, fails, raises, slow = Step

small = st.integers(0, 6)
maybe_small = st.none() | small


class PoolBesideItsShadow(RuleBasedStateMachine):
    """alloc, free, resize, refill, close, one and many, with a source that fails and breaks on purpose; a limit."""

    with_limit = True

    def make_elements(self) -> Any:
        """What the source really makes; None: plain objects."""
        return None

    @initialize(reserve=small, keep=maybe_small, limit=maybe_small)
    def begin(self, reserve: int, keep: int | None, limit: int | None) -> None:
        keep = None if keep is None else reserve + keep
        limit = None if limit is None or not self.with_limit else reserve + limit + 1
        self.loop = asyncio.new_event_loop()
        self.source: ScriptedSource[Any] = ScriptedSource(source=self.make_elements())
        self.clock = ManualClock()
        self.pool = self.clock.attach(Pool(self.source, reserve, keep=keep, limit=limit))
        self.shadow = Shadow(reserve, keep, limit, spare=reserve, made=reserve, now=self.clock.now())
        self.out: list[Any] = []
        self.freed: list[Any] = []
        self.tasks: list[asyncio.Task[list[Element]]] = []

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.source.open()
            self.pool.close()
            for task in self.tasks:
                task.cancel()
            self.run_loop()
            self.loop.close()

    # -- the same to both

    def both(self, call: Callable[[], Any], shadow: Iterator[str]) -> Any:
        """Make the call, and let the shadow say how it may end. Returns what it returned, None if it raised."""
        ends = list(shadow)
        expected = {"raises": SourceBroken, "nothing": PoolTimeout}
        error, returned = None, None
        try:
            returned = call()
        except (SourceBroken, PoolTimeout) as raised:
            error = raised
        if error is None:
            assert "raises" not in ends
            return None if "nothing" in ends else returned
        assert type(error) in {expected[end] for end in ends}
        return None

    def keep_out(self, elements: list[Element] | None) -> None:
        if elements is not None:
            assert all(element is not None for element in elements)
            assert not {id(e) for e in elements} & {id(e) for e in self.out}
            self.out += elements

    def run_loop(self) -> None:
        """Let the loop run until every task stands still, and take what the served ones got."""
        for _ in range(3):
            self.loop.run_until_complete(asyncio.sleep(0))
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            got = None if task.cancelled() or task.exception() is not None else task.result()
            assert (got is not None) == (task in self.shadow.served)
            self.keep_out(got)

    # -- the source

    @rule(answers=st.lists(st.sampled_from([works, fails, raises]), max_size=4))
    def script(self, answers: list[Step]) -> None:
        self.source.then(*answers)
        self.shadow.answers.extend(answers)

    @rule(answer=st.sampled_from([works, fails]))
    def change_for_good(self, answer: Step) -> None:
        self.source.otherwise = self.shadow.otherwise = answer

    @rule()
    def break_the_next_free(self) -> None:
        if self.shadow.bad_frees < 2:
            self.source.then_free(raises)
            self.shadow.bad_frees += 1

    @precondition(lambda self: not self.shadow.line)
    @rule(seconds=st.sampled_from([0.001, 0.002, 0.01, 0.05]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.shadow.now = self.clock.now()

    # -- taking

    open_pool = precondition(lambda self: not self.shadow.closed)
    empty_line = precondition(lambda self: not self.shadow.line)

    @open_pool
    @empty_line
    @rule()
    def alloc(self) -> None:
        element = self.both(lambda: self.pool.alloc(timeout=0), self.shadow.take(1))
        self.keep_out(None if element is None else [element])

    @open_pool
    @empty_line
    @rule(n=small)
    def alloc_many(self, n: int) -> None:
        if self.shadow.limit is not None and n > self.shadow.limit:
            with pytest.raises(ValueError, match="limit"):
                self.pool.alloc_many(n)
            return
        self.keep_out(self.both(lambda: self.pool.alloc_many(n, timeout=0), self.shadow.take(n)))

    @open_pool
    @rule()
    def try_alloc(self) -> None:
        element = self.both(self.pool.try_alloc, self.shadow.take(1))
        self.keep_out(None if element is None else [element])

    @open_pool
    @rule()
    def alloc_reserved(self) -> None:
        element = self.pool.alloc_reserved()
        assert (element is None) == (self.shadow.spare == 0 or bool(self.shadow.line))
        if element is not None:
            self.shadow.spare -= 1
            self.shadow.out += 1
            self.keep_out([element])

    # -- giving back

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        element = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.freed.append(element)
        self.shadow.out -= 1
        self.both(lambda: self.pool.free(element), self.shadow.take_back(1))

    @rule(data=st.data())
    def free_many(self, data: st.DataObject) -> None:
        n = data.draw(st.integers(0, len(self.out)))
        elements, self.out = self.out[:n], self.out[n:]
        self.freed += elements
        self.shadow.out -= n
        disposed = self.shadow.disposed
        kept = self.both(lambda: self.pool.free_many(elements), self.shadow.take_back(n))
        assert kept is None or kept == n - (self.shadow.disposed - disposed)

    @precondition(lambda self: any(element not in self.out for element in self.freed))
    @rule(data=st.data())
    def free_again(self, data: st.DataObject) -> None:
        element = data.draw(st.sampled_from([element for element in self.freed if element not in self.out]))
        waiting = [task for task in self.tasks if task in self.shadow.served]
        if not waiting:  # else it may be out again, on its way to a task
            with pytest.raises(PoolError):
                self.pool.free(element)

    # -- what is broken, and what is lost

    @precondition(lambda self: self.out and not self.shadow.line)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        element = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.freed.append(element)
        self.both(lambda: self.pool.discard(element), self.shadow.discard())
        assert not self.source.has([element])

    @precondition(lambda self: self.out and not self.shadow.line)
    @rule(data=st.data())
    def write_off(self, data: st.DataObject) -> None:
        element = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.freed.append(element)
        self.both(lambda: self.pool.write_off(element), self.shadow.write_off())
        assert self.source.has([element])

    # -- the promise

    @open_pool
    @rule(reserve=maybe_small, keep=maybe_small, limit=maybe_small, no_limit=st.booleans())
    def resize(self, reserve: int | None, keep: int | None, limit: int | None, no_limit: bool) -> None:
        base = self.shadow.reserve if reserve is None else reserve
        keep = None if keep is None else base + keep
        options: dict[str, Any] = {"keep": keep}
        if limit is not None and self.with_limit:
            options["limit"] = limit = base + limit + 1
        elif self.shadow.limit is not None and (no_limit or self.shadow.limit < base):
            options["limit"], limit = None, 0
        else:
            limit = None
        guarantee = self.both(lambda: self.pool.resize(reserve, **options), self.shadow.resize(reserve, keep, limit))
        assert guarantee is None or guarantee == self.pool.guarantee()

    @rule()
    def refill(self) -> None:
        if not self.shadow.closed:
            self.both(self.pool.refill, self.shadow.fill(beyond_out=True))

    @precondition(lambda self: self.shadow.made > 12)
    @rule()
    def close(self) -> None:
        self.both(self.pool.close, self.shadow.close())
        with pytest.raises(PoolClosed):
            self.pool.alloc()

    # -- agreed?

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.run_loop()
        stats, shadow = self.pool.stats(), self.shadow
        assert stats.reserve == shadow.reserve
        assert stats.keep == shadow.keep
        assert stats.limit == shadow.limit
        assert stats.spare == shadow.spare
        assert stats.out == shadow.out == len(self.out) + shadow.lingering
        assert stats.lingering == shadow.lingering
        assert stats.made == shadow.made == self.source.made
        assert stats.disposed == shadow.disposed == self.source.disposed + shadow.written_off
        assert stats.written_off == shadow.written_off
        assert stats.disposing == 0
        assert stats.waiting == len(shadow.line)
        assert stats.closed == shadow.closed
        assert stats.source_failures == shadow.failures
        assert stats.resizes == shadow.resizes
        guarantee = self.pool.guarantee()
        assert (guarantee.promised, guarantee.spare, guarantee.owed, guarantee.unfunded) == shadow.guarantee()
        assert guarantee.filling == 0  # no call is under way here
        assert len(self.source.existing) == shadow.spare + shadow.out + shadow.written_off
        assert self.source.has(self.out)
        assert self.source.wrong == []


class PoolOfBuffers(PoolBesideItsShadow):
    """The same with buffers, which views keep."""

    def __init__(self) -> None:
        super().__init__()
        self.views: list[Any] = []

    def make_elements(self) -> Any:
        return Buffers(64)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def free_while_viewed(self, data: st.DataObject) -> None:
        element = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        self.freed.append(element)
        self.views.append(element[:])
        with pytest.raises(BufferError):
            self.pool.free(element)
        self.pool.free(element, linger=True)
        self.shadow.lingering += 1

    # What a free raises where the last view ends, Python swallows.
    @precondition(lambda self: self.views and not self.shadow.bad_frees)
    @rule(data=st.data())
    def end_view(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.views) - 1))
        self.both(lambda: self.views.pop(place), self.shadow.end_view())


class PoolWithALine(PoolBesideItsShadow):
    """The same with callers who wait, and give up. Without a limit: with one, who asks when is another matter."""

    with_limit = False

    @PoolBesideItsShadow.open_pool
    @rule(n=st.integers(1, 4))
    def wait(self, n: int) -> None:
        """alloc_many_async in a task; whoever finds others in the line joins it without asking."""
        task = self.loop.create_task(self.pool.alloc_many_async(n))
        self.tasks.append(task)
        if self.shadow.line:
            self.shadow.line.append((task, n))
            self.shadow.lay_by(0)
            return
        spare, got = self.shadow.spare, 0
        for end in self.shadow.take(n):
            got += 1
            if end == "nothing":
                # What it had got was laid by, and would be cut: but it stands there and gathers.
                self.shadow.line.append((task, n))
        if not got:
            self.shadow.served.append(task)
        assert spare >= 0

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.tasks))
        self.run_loop()
        # What a free raises then is not heard yet: see test_a_gatherer_that_is_cancelled_while_the_source_breaks_says_so.
        if task in self.tasks and not self.shadow.bad_frees:
            task.cancel()
            for _end in self.shadow.leave(task):
                pass


MACHINE = settings(
    max_examples=120 if LONG else 40,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestPool = PoolBesideItsShadow.TestCase
TestPool.settings = MACHINE
TestBuffers = pytest.mark.filterwarnings("ignore:.*a buffer was dropped:ResourceWarning")(PoolOfBuffers.TestCase)
TestBuffers.settings = MACHINE
TestLine = PoolWithALine.TestCase
TestLine.settings = MACHINE
