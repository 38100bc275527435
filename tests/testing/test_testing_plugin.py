"""The pytest plugin, run on small test files as its users would write them."""

from importlib import metadata

import pytest

pytest_plugins = ["pytester"]

# Installed, pytest loads it by itself; from a bare source tree it is named.
LOADED = any(metadata.entry_points(group="pytest11", name="mempool"))
PLUGIN = [] if LOADED else ["-p", "mempool.testing.plugin"]

pytestmark = pytest.mark.long_on_both

HEAD = """
import pytest
from mempool import Objects, Pool, PoolTimeout
from mempool.testing import ManualClock, Step
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
    result.stdout.fnmatch_lines(["*elements were not freed. pool 'frames': 2 still out; 2 taken by thread*test_leaky*"])


def test_a_leak_of_a_pool_that_is_gone_is_told_as_well(pytester: pytest.Pytester) -> None:
    """A pool that the test dropped is not kept alive for the check, and is checked; it is known who took what."""
    result = run(
        pytester,
        """
import weakref
def handle(pool):
    pool.alloc()

def test_leaky(leak_check):
    pool = Pool(Objects(bytearray), 2, name="frames")
    handle(pool)
    reference = weakref.ref(pool)
    del pool
    assert reference() is None
""",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*pool 'frames': 1 still out; 1 taken by thread 'MainThread' at *.py:* in handle. *"])


@pytest.mark.parametrize("names", ["leak_check, pool", "pool, leak_check", "pool, request"])
def test_fixtures_are_watched_in_any_order(pytester: pytest.Pytester, names: str) -> None:
    """leak_check begins before all fixtures of a test and ends after them, however it is requested."""
    result = run(
        pytester,
        f"""
kept = []

@pytest.fixture
def pool():
    pool = Pool(Objects(bytearray), 2, name="frames")
    element = pool.alloc()
    yield pool
    pool.free(element)

@pytest.mark.usefixtures("leak_check")
def test_leaky({names}):
    kept.append(pool.alloc())

@pytest.mark.usefixtures("leak_check")
def test_clean({names}):
    pass
""",
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_leaky*", "*pool 'frames': 1 still out; 1 taken by *in test_leaky*"]
    )


def test_a_pool_that_lived_before_is_watched(pytester: pytest.Pytester) -> None:
    """Of an older pool counts what is out beyond what was; and where its holders are not known, it is said why."""
    result = run(
        pytester,
        """
known = Pool(Objects(bytearray), 1, name="known", track="holders")
unknown = Pool(Objects(bytearray), 1, name="unknown")
kept = [known.alloc(), unknown.alloc()]

def test_clean(leak_check):
    known.free(known.alloc())

def test_leaky(leak_check):
    kept.append(known.alloc())
    kept.extend(unknown.alloc_many(2))

def test_clean_again(leak_check):
    unknown.free(kept.pop())
""",
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*'known': 1 still out; 1 taken by *in test_leaky. *"])
    result.stdout.fnmatch_lines(["*'unknown': 2 still out; who took them is not known, as * without track=\"holders\". *"])


def test_what_a_fixture_of_many_tests_takes_is_no_leak(pytester: pytest.Pytester) -> None:
    """What is taken while a fixture with a wider scope is set up may stay out; what the test takes beside it may not."""
    result = run(
        pytester,
        """
kept = []

@pytest.fixture(scope="session")
def pool():
    return Pool(Objects(bytearray), 2, name="frames")

@pytest.fixture(scope="module", params=[1, 2])
def element(pool):
    inner = pool.alloc()
    yield inner
    pool.free(inner)

@pytest.fixture(scope="module")
def elements(element, pool):
    return element, pool.alloc(), Pool(Objects(bytearray), 2, name="other").alloc()

def test_clean(elements, leak_check):
    pass

def test_leaky(leak_check, elements, pool):
    kept.append(pool.alloc())
""",
    )
    result.assert_outcomes(passed=4, errors=2)
    result.stdout.fnmatch_lines(
        ["*test_leaky?1?*", "elements were not freed. pool 'frames': 1 still out; 1 *in test_leaky. *"]
    )
    result.stdout.fnmatch_lines(
        ["*test_leaky?2?*", "elements were not freed. pool 'frames': 1 still out; 1 *in test_leaky. *"]
    )


@pytest.mark.parametrize("track", ["identity", "holders"])
def test_what_others_have_dropped_hides_no_leak(pytester: pytest.Pytester, track: str) -> None:
    """What others drop counts as written off once another has its address: here, what the test leaks."""
    result = run(
        pytester,
        f"""
addresses, kept = set(), []

def make():
    rest = []  # no two of them have one address
    while True:
        one = bytearray()
        if not addresses or id(one) in addresses:
            return one
        rest.append(one)
        assert len(rest) < 100_000

pool = Pool(Objects(make), 0, keep=0, name="frames", track="{track}")
others = pool.alloc_many(50)

def test_leaky(leak_check):
    addresses.update(map(id, others))
    others.clear()
    kept.append(pool.alloc())
    assert (pool.stats().out, pool.stats().written_off) == (50, 1)
""",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*pool 'frames': 1 still out; *"])


def test_a_check_for_leaks_changes_no_error(pytester: pytest.Pytester) -> None:
    """What times out without leak_check times out with it; who wants deadlocks told has them told."""
    result = run(
        pytester,
        """
from mempool import DeadlockError

@pytest.mark.parametrize("options, error", [({}, PoolTimeout), ({"track": "holders"}, DeadlockError)])
def test_waits(leak_check, options, error):
    pool = Pool(Objects(bytearray), 1, limit=1, **options)
    element = pool.alloc()
    pool.take_over(element)
    with pytest.raises(error):
        pool.alloc(timeout=0.01)
    pool.free(element)

def test_waits_as_the_environment_says(leak_check, monkeypatch):
    monkeypatch.setenv("MEMPOOL_TRACK", "holders")
    pool = Pool(Objects(bytearray), 1, limit=1)
    with pool.lease(), pytest.raises(DeadlockError):
        pool.alloc(timeout=0.01)
""",
    )
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("track", ["identity", "nothing"])
def test_a_pool_with_a_track_of_its_own_keeps_it(pytester: pytest.Pytester, track: str) -> None:
    """leak_check counts what is out of it, and says why it does not know who took it."""
    result = run(
        pytester,
        f"""
def test_leaky(leak_check):
    pool = Pool(Objects(bytearray), 1, name="frames", track="{track}")
    pool.alloc()
    assert pool.holders() == ()
""",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*pool 'frames': 1 still out; who took them is not known, as * without track=\"holders\". *"]
    )


def test_many_leaks_are_told_in_few_words(pytester: pytest.Pytester) -> None:
    """Those taken at one place by one taker are one; of places and of pools, some are named and the others counted."""
    result = run(
        pytester,
        """
def test_one_place(leak_check):
    Pool(Objects(bytearray), 50, name="fifty").alloc_many(50)

def test_many_places(leak_check):
    kept, pool = [], Pool(Objects(bytearray), 50, name="places")
    for number in range(11):
        exec(compile("\\n" * number + "kept.append(pool.alloc())", "a_file.py", "exec"))

def test_many_pools(leak_check):
    for number in range(11):
        Pool(Objects(bytearray), 1).alloc()
""",
    )
    result.assert_outcomes(passed=3, errors=3)
    result.stdout.fnmatch_lines(["*'fifty': 50 still out; 50 taken by thread 'MainThread' at *in test_one_place. *"])
    result.stdout.fnmatch_lines(["*'places': 11 still out; *a_file.py:8 in <module>; more at 3 other places. *"])
    result.stdout.fnmatch_lines(["*elements were not freed. *; 1 taken by *. and 3 more pools. *"])


def test_elements_that_were_dropped_are_told_one_by_one(pytester: pytest.Pytester) -> None:
    """Though the next has the address of the one before, which it may have once that is gone."""
    result = run(
        pytester,
        """
@pytest.mark.parametrize("track", [None, "holders"])
def test_leaky(leak_check, track):
    at_one_address = bytearray()
    pool = Pool(Objects(lambda: at_one_address), 0, name=f"track {track}", track=track)
    for _ in range(20):
        pool.alloc()
""",
    )
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*'track None': 20 still out; 20 taken by thread 'MainThread' at *in test_leaky. *"])
    result.stdout.fnmatch_lines(["*'track holders': 20 still out; 1 taken by *; who took 19 of them is not known, as *"])


def test_a_test_that_frees_all_passes(pytester: pytest.Pytester) -> None:
    """leak_check is content when all are returned, also those that fixtures return, and with pools of no interest."""
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
    clock = ManualClock()
    clock.attach(pool)
    outcomes = []
    for _ in range(9):
        clock.advance(1)  # a source that has failed is left alone for a while
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


def test_a_marked_test_leaves_no_faults_behind(pytester: pytest.Pytester) -> None:
    """A pool that outlives the marked test in which it was made has its own source again, whatever the test's end."""
    result = run(
        pytester,
        """
source = Objects(bytearray)

@pytest.fixture(scope="module")
def pool():
    return Pool(source, 0)

@pytest.mark.pool_faults(every=1)
def test_marked(pool):
    assert pool.try_alloc() is None
    raise RuntimeError

def test_unmarked(pool):
    pool.free(pool.try_alloc())
    assert pool._engine.supply.source is source
""",
    )
    result.assert_outcomes(passed=1, failed=1)


def test_pools_made_before_a_marked_test_fail_as_well(pytester: pytest.Pytester) -> None:
    """Those of a module and of a fixture with a wider scope; each counts from the beginning of the test."""
    result = run(
        pytester,
        """
old = Pool(Objects(bytearray), 1, keep=1)

@pytest.fixture(scope="module")
def shared():
    return Pool(Objects(bytearray), 1, keep=1)

def failures(pool):
    clock = ManualClock()
    clock.attach(pool)
    clock.advance(1)  # a source that has failed is left alone for a while
    failed = pool.stats().source_failures
    elements = [pool.alloc() for _ in range(4)]
    pool.free_many(elements)
    return pool.stats().source_failures - failed

def test_unmarked(shared):
    assert failures(old) == failures(shared) == 0

@pytest.mark.pool_faults(every=4)
def test_marked(shared):
    assert failures(old) == failures(shared) == 1

@pytest.mark.pool_faults(every=4)
def test_marked_again(shared):
    assert failures(old) == failures(shared) == 1

def test_unmarked_again(shared):
    assert failures(old) == failures(shared) == 0
""",
    )
    result.assert_outcomes(passed=4)


@pytest.mark.parametrize("written", ["every=0", "every=True", "every=1.5", "3", "often=3"])
def test_a_marker_written_wrongly_fails_its_test(pytester: pytest.Pytester, written: str) -> None:
    """Anything but pool_faults(every=n), n a number from 1, is an error of the test that says how it is written."""
    result = run(
        pytester,
        f"""
@pytest.mark.pool_faults({written})
def test_marked():
    pass

@pytest.mark.skip
@pytest.mark.pool_faults({written})
def test_skipped():
    pass

def test_unmarked():
    pass
""",
    )
    result.assert_outcomes(passed=1, errors=1, skipped=1)
    result.stdout.fnmatch_lines(
        [f"*::test_marked: pool_faults is written pool_faults(every=n), *, not pool_faults({written})"]
    )


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
    threads[0].join(60)
    assert not threads[0].is_alive()
""",
    )
    result.assert_outcomes(passed=3)


def test_the_marker_is_explained(pytester: pytest.Pytester) -> None:
    """`pytest --markers` says what pool_faults means."""
    result = run(pytester, "", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.pool_faults(every=3): *"])
