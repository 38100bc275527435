"""The header: which core these tests run on, and when it was built. What Hypothesis draws. And cheap collections of garbage.

With MEMPOOL_DRAW=1, as in `make stress`, Hypothesis draws other inputs in each run, and a failure says how to
have it again. Without, the inputs are the same each time: who runs `make test` sees what the next one sees.
"""

import gc
import itertools
import os
import warnings
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

#: How fast inputs are made and how many are refused depends on the machine's load and on the draw, and not on the pool.
LENIENT = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
)
settings.register_profile("same", LENIENT, derandomize=True, database=None)
settings.register_profile("drawn", LENIENT, derandomize=False, print_blob=True)
settings.load_profile("drawn" if os.environ.get("MEMPOOL_DRAW") == "1" else "same")


try:
    from mempool import Buffers
except ImportError:
    pass
else:
    with warnings.catch_warnings():  # what is said once is said here, and not in whichever test is the first
        warnings.simplefilter("ignore")
        Buffers(64)


def pytest_report_header() -> str:
    try:
        from mempool._core import IMPLEMENTATION, reserve
    except ImportError as failure:
        return f"mempool core: none, {failure}"
    loaded = Path(reserve.__file__)
    built = datetime.fromtimestamp(loaded.stat().st_mtime)  # noqa: DTZ006 - the reader's own clock
    return f"mempool core: {IMPLEMENTATION}, built {built:%H:%M} from {loaded}"


_finished = itertools.count(1)


def pytest_collection_finish() -> None:
    """What has been imported by now is no garbage: hundreds of tests collect, and need not look through it each time."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logfinish() -> None:
    """Nor are pytest's reports, which become many."""
    if next(_finished) % 50 == 0:
        gc.collect()
        gc.freeze()


#: Faults that are known and not mended yet: the end of a test's id, and what is wrong. Taken out with the mend.
KNOWN = {
    "test_no_allocation_that_fails_loses_anything[lease_many_freed_behind_its_back]": "with the 46th allocation failing, "
    "two elements of a Leases of which one was freed by hand stay out",
    "_to_its_user_or_to_the_pool[discard-buffer-holders]": "an interrupt as Buffers.free is entered by another source "
    "has its free called twice",
    "_to_its_user_or_to_the_pool[discard-buffer-identity]": "as above",
    "_to_its_user_or_to_the_pool[discard_by_a_lease-buffer-identity]": "as above",
    "_to_its_user_or_to_the_pool[discard_by_a_lease-buffer-holders]": "as above",
}
#: The same where the core is not compiled. Calls whose sweep of failing allocations leaves something out, or exempt from it,
#: since the views of an uncompiled buffer have a window, and since what `async with` awaits is no coroutine.
UNCOMPILED = [
    "buffer_comes_home_after_lingering",
    "buffer_comes_home_after_lingering_and_is_wiped",
    "buffer_dropped",
    "buffer_dropped_and_awaited",
    "buffer_dropped_and_viewed",
    "buffer_dropped_and_wiped",
    "buffer_dropped_closed",
    "buffer_dropped_that_no_pool_has",
    "buffer_dropped_with_holders",
    "buffer_lingers",
    "buffer_lingers_after_a_lease",
    "buffer_lingers_with_holders",
    "buffer_viewed_and_freed",
    "buffer_viewed_and_surrendered",
    "buffers_close",
    "buffers_free",
    "buffers_free_kept",
    "buffers_free_many_one_viewed",
    "buffers_free_surplus",
    "buffers_lease_with",
    "buffers_linger_one_of_many",
    "buffers_poisoned_close",
    "buffers_poisoned_free_kept",
    "buffers_poisoned_free_surplus",
    "buffers_poisoned_lease_with",
    "buffers_spoilt_alloc",
    "buffers_spoilt_lease",
    "buffers_wiped_alloc_by_waiting",
    "buffers_wiped_close",
    "buffers_wiped_free_kept",
    "buffers_wiped_free_many",
    "buffers_wiped_free_surplus",
    "buffers_zeroed_lease_with",
    "lease_async_body_raises",
    "lease_async_warm",
    "lease_async_with",
    "lease_awaited",
    "lease_many_of_a_viewed_buffer",
    "lease_many_of_buffers",
    "lease_many_that_linger",
    "lease_of_a_viewed_buffer",
    "lease_of_a_viewed_buffer_dropped",
    "pool_array",
    "pool_of_buffers",
    "read_a_file",
]
KNOWN_UNCOMPILED = {f"test_no_allocation_that_fails_loses_anything[{call}]": "see UNCOMPILED" for call in UNCOMPILED} | {
    "test_every_public_call_is_made": "a method of what only the uncompiled core has is in no list of calls",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is known to fail is told of as that, and does not hide what is new."""
    import mempool

    known = KNOWN if mempool.IMPLEMENTATION == "compiled" else KNOWN | KNOWN_UNCOMPILED
    for item in items:
        for end, fault in known.items():
            if item.nodeid.endswith(end):
                item.add_marker(pytest.mark.xfail(reason=fault, strict=False))
