"""The header: which core these tests run on, and when it was built. What Hypothesis draws. And cheap collections of garbage.

With MEMPOOL_DRAW=1, as in `make stress`, Hypothesis draws other inputs in each run, and a failure says how to
have it again. Without, the inputs are the same each time: who runs `make test` sees what the next one sees.
"""

import collections
import gc
import itertools
import os
import signal
import sys
import warnings
import zlib
from datetime import datetime
from pathlib import Path

import pytest
import without_the_gil
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from sweeps import LONG

#: How fast inputs are made and how many are refused depends on the machine's load and on the draw, and not on the pool.
LENIENT = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
)
settings.register_profile("same", LENIENT, derandomize=True, database=None)
settings.register_profile("drawn", LENIENT, derandomize=False, print_blob=True)
settings.load_profile("drawn" if os.environ.get("MEMPOOL_DRAW") == "1" else "same")
# Hypothesis mixes into what it draws the constants of those modules of this project that are loaded.
# So what was drawn depended on which tests share a process. Where it does no such thing, there is nothing to do.
if os.environ.get("MEMPOOL_DRAW") != "1" and hasattr(providers, "_local_constants"):
    providers.HypothesisProvider._local_constants = providers._local_constants  # none has been looked at yet

# A shell without job control ignores SIGINT in what it starts with `&`, and so do all its children: a program that a test
# interrupts never ended. Here Ctrl-C is heard, however the tests were started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
        from mempool._core import IMPLEMENTATION, decisions
    except ImportError as failure:
        return f"mempool core: none, {failure}"
    loaded = Path(decisions.__file__)
    built = datetime.fromtimestamp(loaded.stat().st_mtime)  # noqa: DTZ006 - the reader's own clock
    return f"mempool core: {IMPLEMENTATION}, built {built:%H:%M} from {loaded}"


#: Of one promise of the contract that has 243 parameters, and runs on each kind of pool. It stands in the library, where the
#: marks of these tests are not known.
SAMPLED = {"test_whatever_the_source_answers_the_accounts_are_exact": 27}


#: The kind of pool that is tested with every kind of caller: by threads, by tasks of asyncio and of uvloop.
BY_ALL_CALLERS = "tests/pool/test_contract.py::TestObjects::"


def of_another_caller(name: str, of_one: list[pytest.Item], run: int) -> set[pytest.Item]:
    """Of a promise about waiting, on any other kind of pool, all but one kind of caller: in another run, another one."""
    kinds = {item: item.callspec.params["calling"] for item in of_one if "calling" in getattr(item, "fixturenames", ())}  # type: ignore[attr-defined]
    if not kinds or (run == 0 and name.startswith(BY_ALL_CALLERS)):
        return set()
    sorted_kinds = sorted(set(kinds.values()))
    kept = sorted_kinds[(zlib.crc32(name.encode()) + run) % len(sorted_kinds)]
    return {item for item, kind in kinds.items() if kind != kept}


def not_in_the_sample(items: list[pytest.Item], run: int) -> set[pytest.Item]:
    """Of each test marked `sample(n)`, all but each n'th of its parameters, and in another run other ones.

    The first is the first one, or with `drawn` one that the test's name decides: tests that have few parameters in common,
    of which each has one, have all of them together.
    """
    tests: dict[str, list[pytest.Item]] = collections.defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    left_out: set[pytest.Item] = set()
    for name, of_one in tests.items():
        left_out |= of_another_caller(name, of_one, run)
        mark = of_one[0].get_closest_marker("sample")
        every = mark.args[0] if mark else SAMPLED.get(getattr(of_one[0], "originalname", ""), 1)
        first = run * (every // 2) % len(of_one) + (zlib.crc32(name.encode()) if mark and mark.kwargs.get("drawn") else 0)
        left_out.update(item for number, item in enumerate(of_one) if number % every != first % every)
    return left_out


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `long` runs only where the whole sweeps do, and all of what is marked `sample`.

    The second of two runs, with the other core, leaves out what the first has answered for both: each test marked `once`,
    and, unless the whole sweeps run, each marked `long_on_both`.
    """
    unwanted = set() if LONG else {"long"}
    is_second = os.environ.get("MEMPOOL_SECOND_RUN") == "1"
    if is_second:
        unwanted |= {"once"} if LONG else {"once", "long_on_both"}
    left_out = set() if LONG else not_in_the_sample(items, run=int(is_second))
    left_out |= {item for item in items if any(item.get_closest_marker(name) for name in unwanted)}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What of CPython is in the way of a test where there is no GIL, is told in the place of its failure."""
    why = without_the_gil.excuse(item.nodeid)
    if why is not None:
        pytest.skip(why)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """An exception that a sweep has left under way holds its frames, and what they hold, for the rest of this process."""
    left = sys.exception()
    if left is not None and left is not _left_before[-1]:
        _left_before.append(left)
        pytest.fail(f"{item.nodeid} has left {left!r} under way")


_left_before: list[BaseException | None] = [None]


class Refused(pytest.Module):
    """Tests of a SharedPool, which cannot be imported here."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        pytest.skip(without_the_gil.SHARED, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Where the GIL is kept off, no test module that needs a SharedPool is imported."""
    needs = without_the_gil.IS_OFF and '\npytest.importorskip("mempool.shared' in module_path.read_text("utf-8")
    return Refused.from_parent(parent, path=module_path) if needs else None


_finished = itertools.count(1)


def pytest_collection_finish() -> None:
    """What has been imported by now is no garbage: hundreds of tests collect, and need not look through it each time."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logfinish() -> None:
    """Nor are pytest's reports, which become many."""
    if next(_finished) % 50 == 0:
        with warnings.catch_warnings():  # of what a test that is over has dropped: it would fail the next one
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        gc.freeze()
