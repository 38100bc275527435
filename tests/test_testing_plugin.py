"""The pytest plugin, run on small test files as its users would write them."""

from importlib import metadata

import pytest

pytest_plugins = ["pytester"]

# Installed, pytest loads it by itself; from a bare source tree it is named.
LOADED = any(metadata.entry_points(group="pytest11", name="mempool"))
PLUGIN = [] if LOADED else ["-p", "mempool.testing.plugin"]

HEAD = """
import pytest
from mempool import Objects, Pool, PoolTimeout
from mempool.testing import Step
"""


def run(pytester: pytest.Pytester, text: str, *args: str) -> pytest.RunResult:
    pytester.makepyfile(HEAD + text)
    return pytester.runpytest_inprocess(*PLUGIN, "-p", "no:cacheprovider", "--strict-markers", *args)


def test_a_leak_fails_the_test_and_names_who_took_it(pytester: pytest.Pytester) -> None:
    """leak_check fails a test that leaves elements out: with the pool, how many, and where they were taken."""
    result = run(
        pytester,
        """
def test_leaky(leak_check):
    pool = Pool(Objects(bytearray), 2, name="frames")
    kept = [pool.alloc(), pool.alloc()]
    globals()["kept"] = kept, pool
""",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*elements were not freed. pool 'frames': 2 still out; *test_leaky*"])


def test_a_leak_of_a_pool_that_is_gone_is_seen_as_well(pytester: pytest.Pytester) -> None:
    """A pool that the test dropped is not kept alive for the check, and is checked."""
    result = run(
        pytester,
        """
def test_leaky(leak_check):
    Pool(Objects(bytearray), 2, name="frames").alloc()
""",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*pool 'frames': 1 still out*"])


def test_a_test_that_frees_all_passes(pytester: pytest.Pytester) -> None:
    """leak_check is content when all are home, also those that fixtures bring home, and with pools of no interest."""
    result = run(
        pytester,
        """
@pytest.fixture
def element(leak_check):
    pool = Pool(Objects(bytearray), 1)
    element = pool.alloc()
    yield element
    pool.free(element)

def test_clean(element, leak_check):
    with Pool(Objects(bytearray), 1).lease() as lease:
        pass
    with pytest.raises(MemoryError):
        Pool(Objects(lambda: bytearray(1 << 62)), 1)
    with pytest.raises(TypeError):
        Pool(None, 1)
""",
    )
    result.assert_outcomes(passed=1)


def test_marked_tests_have_sources_that_fail(pytester: pytest.Pytester) -> None:
    """pool_faults(every=3): once the reserve is filled every third alloc fails, in fixtures' pools too; in no other test."""
    result = run(
        pytester,
        """
@pytest.fixture
def pool():
    return Pool(Objects(bytearray), 5)

@pytest.mark.pool_faults(every=3)
def test_marked(pool):
    assert pool.guarantee().held
    outcomes = []
    for _ in range(9):
        failures = pool.stats().source_failures
        pool.alloc()
        outcomes.append(pool.stats().source_failures > failures)
    assert outcomes == [False, False, True] * 3
    here = Pool(Objects(bytearray), 1)
    here.alloc(), here.alloc()
    assert here.stats().source_failures == 0
    here.alloc()
    assert here.stats().source_failures == 1

@pytest.mark.pool_faults(every=1)
def test_always(pool):
    with pytest.raises(PoolTimeout):
        for _ in range(6):
            pool.alloc(timeout=0)

@pytest.mark.pool_faults
def test_by_default_every_third(pool):
    for _ in range(3):
        pool.alloc()
    assert pool.stats().source_failures == 1

def test_unmarked(pool):
    for _ in range(9):
        pool.alloc()
    assert pool.stats().source_failures == 0
""",
    )
    result.assert_outcomes(passed=4)


def test_a_failing_source_is_still_itself(pytester: pytest.Pytester) -> None:
    """Under pool_faults a source's reset and other attributes go on working."""
    result = run(
        pytester,
        """
@pytest.mark.pool_faults(every=2)
def test_reset(leak_check):
    seen = []
    pool = Pool(Objects(bytearray, reset=seen.append), 1)
    element = pool.alloc()
    pool.free(element)
    assert seen == [element]
""",
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("written", ["every=0", "3", "often=3"])
def test_a_marker_written_wrongly_is_said(pytester: pytest.Pytester, written: str) -> None:
    """Anything but pool_faults(every=n), n at least 1, is an error that says how it is written."""
    result = run(pytester, f"@pytest.mark.pool_faults({written})\ndef test_marked():\n    pass\n")
    assert result.ret != 0
    output = result.stdout.str() + result.stderr.str()
    assert "pool_faults(every=n)" in output


def test_a_faulty_source_does_as_it_is_told(pytester: pytest.Pytester) -> None:
    """faulty_source is a ScriptedSource that works until told otherwise, and holds no thread beyond the test."""
    result = run(
        pytester,
        """
import threading
threads = []

def test_fails(faulty_source):
    pool = Pool(faulty_source, 1)
    faulty_source.otherwise = Step.FAILS
    pool.alloc()
    with pytest.raises(PoolTimeout):
        pool.alloc(timeout=0)

def test_holds(faulty_source):
    pool = Pool(faulty_source, 0)
    faulty_source.then(Step.SLOW)
    threads.append(threading.Thread(target=pool.try_alloc))
    threads[0].start()
    faulty_source.wait_until_held()

def test_is_let_go():
    threads[0].join(10)
    assert not threads[0].is_alive()
""",
    )
    result.assert_outcomes(passed=3)


def test_the_marker_is_explained(pytester: pytest.Pytester) -> None:
    """`pytest --markers` says what pool_faults means."""
    result = run(pytester, "", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.pool_faults(every=3): *"])
