"""For tests: sources that do as they are told, a clock that stands still, and the contract every pool keeps.

ScriptedSource      works, fails, raises or blocks, call by call, and knows which elements exist
Step                what a call of it does
Element             what it makes
SourceBroken        what it raises
ManualClock         time that moves when it is told to
assert_books        whether every element is accounted for
wait_until          waits for a state, not for a time
wait_until_async    the same inside an event loop
.contract           the promises of a pool as pytest tests, for your own source or your own pool (needs pytest)
.plugin             fixtures `faulty_source` and `leak_check`, marker `pool_faults` (loaded by pytest itself)
"""

from mempool.testing.books import assert_books
from mempool.testing.manual_clock import ManualClock
from mempool.testing.scripted import Element, ScriptedSource, SourceBroken, Step
from mempool.testing.waiting import wait_until, wait_until_async

__all__ = [
    "Element",
    "ManualClock",
    "ScriptedSource",
    "SourceBroken",
    "Step",
    "assert_books",
    "wait_until",
    "wait_until_async",
]
