"""What every pool promises, as pytest tests: run them on your own source, or on your own pool.

    from mempool.testing.contract import PoolContract

    class TestMine(PoolContract):
        def make_elements(self):            # another source:
            return MySource()               # what it makes is handed out through a ScriptedSource
        def make_pool(self, source, reserve, **options):    # another pool:
            return MyPool(source, reserve, **options)
        def attach_clock(self, pool):       # if that is one around a Pool:
            self.clock.attach(pool.inner)

    PoolContract        all of these:
    AllocContract       where an element comes from, and where it goes
    AccountContract     what is counted, said and shown
    LineContract        who waits, in which order, and how it ends
    RetryContract       a source that recovers serves the line
    RestContract        a source that has just failed is left alone
    SlowSourceContract  nobody sleeps beside what is returned while the head asks
    ResizeContract      the promise changed, live
    GuaranteeContract   what is covered, owed and unfunded
    BulkContract        many at once
    LeaseContract       elements that are returned by themselves
    LeaseManyContract   many of them together
    LingerContract      what is freed while something still looks at it
    LossContract        what is broken, and what is lost with its holder
    CloseContract       the end
    InputContract       bad input changes nothing

A pool of your own must have:

* what `needs` of a part names: these methods and properties of `Pool`, with its arguments, results and errors (those of
  `mempool.errors`). CloseContract also uses it as a context manager, AccountContract its `repr`, LineContract its log;
* `stats()` with all fields of a `PoolStats`, and `guarantee()` with those of a `Guarantee`: return such a value;
* the options of `Pool`, for `make_pool`;
* a clock that is handed in, by which every wait is measured: `attach_clock` calls `ManualClock.attach`, which says more.

The first test of a class looks whether the source makes elements, and whether the pool has all that and waits by that clock;
where not, it says what is missing, and the others are skipped.

What waits is tested with a thread and with a task of an event loop: see callers.py. Pools that are tested stand under a
ManualClock, so nothing happens by itself; each test ends with an audit: see base.py.
"""

import pkgutil

import pytest

# Before they are imported, so that a failed assert shows its values.
pytest.register_assert_rewrite(*[f"{__name__}.{part.name}" for part in pkgutil.iter_modules(__path__)])

from mempool.testing.contract import whole  # noqa: E402 - after the above
from mempool.testing.contract.whole import *  # noqa: E402, F403

__all__ = whole.__all__
