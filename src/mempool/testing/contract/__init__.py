"""What every pool promises, as pytest tests: run them on your own source, or on your own pool.

    from mempool.testing.contract import PoolContract

    class TestMine(PoolContract):
        def make_elements(self):            # another source:
            return MySource()               # what it makes is handed out through a ScriptedSource
        def make_pool(self, source, reserve, **options):    # another pool:
            return MyPool(source, reserve, **options)

    PoolContract        all of these:
    AllocContract       where an element comes from, and where it goes
    AccountContract     what is counted, said and shown
    LineContract        who waits, in which order, and how it ends
    RetryContract       a source that recovers serves the line
    ResizeContract      the promise changed, live
    GuaranteeContract   what is covered, owed and unfunded
    BulkContract        many at once
    LeaseContract       elements that go home by themselves
    CloseContract       the end
    InputContract       bad input changes nothing

What waits is tested with a thread and with a task of an event loop: see callers.py. Pools that are tested stand under a
ManualClock, so nothing happens by itself; each test ends with an audit: see base.py.
"""

import pytest

# Before they are imported, so that a failed assert shows its values.
pytest.register_assert_rewrite(
    *[
        f"mempool.testing.contract.{room}"
        for room in (
            *("account", "alloc", "bad_input", "base", "bulk", "closing", "guarantees", "leases", "line", "resize"),
            *("retry", "whole"),
        )
    ]
)

from mempool.testing.contract.whole import (  # noqa: E402 - after the above
    AccountContract,
    AllocContract,
    BulkContract,
    CloseContract,
    Contract,
    GuaranteeContract,
    InputContract,
    LeaseContract,
    LineContract,
    PoolContract,
    ResizeContract,
    RetryContract,
)

__all__ = [
    "AccountContract",
    "AllocContract",
    "BulkContract",
    "CloseContract",
    "Contract",
    "GuaranteeContract",
    "InputContract",
    "LeaseContract",
    "LineContract",
    "PoolContract",
    "ResizeContract",
    "RetryContract",
]
