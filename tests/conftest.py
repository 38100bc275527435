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


#: Faults that are known and not mended yet: part of a test's id, and what is wrong. Taken out with the mend.
KNOWN = {
    "test_no_allocation_that_fails_loses_anything[lease_many_freed_behind_its_back]": "with the 46th allocation failing, "
    "two elements of a Leases of which one was freed by hand stay out",
    "test_an_interrupt_leaves_an_element_to_its_user_or_to_the_pool[discard-buffer-holders]": "an interrupt as Buffers.free "
    "is entered by another source's free has that one called twice",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is known to fail is told of as that, and does not hide what is new."""
    for item in items:
        for known, fault in KNOWN.items():
            if item.nodeid.endswith(known):
                item.add_marker(pytest.mark.xfail(reason=fault, strict=False))
