"""Greenlets of gevent and eventlet in one line with threads: they wait on their hub, and stop nobody.

Each scene is a process of its own, because a process is patched once and for all. It ends by itself, or the test fails.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
from types import ModuleType, SimpleNamespace

import pytest

from mempool import native
from mempool.greenlets import Bell

#: How long the stress lasts.
SECONDS = float(os.environ.get("MEMPOOL_STRESS_SECONDS", "60"))
#: Each script is run with the library patched before and after mempool is imported.
ORDERS = ("mempool first", "patched first")
SCENE = """
import sys
FIRST = sys.argv[2] == "mempool first"
if FIRST:
    import mempool
if sys.argv[1] == "gevent":
    import gevent, gevent.monkey
    gevent.monkey.patch_all()
    sleep, spawn, Timeout, Killed = gevent.sleep, gevent.spawn, gevent.Timeout, gevent.GreenletExit
    def wait(greenlets):
        gevent.joinall(greenlets, timeout=30)
        assert all(greenlet.ready() for greenlet in greenlets)
    def kill(greenlet):
        greenlet.kill(block=False)
    start_thread = gevent.monkey.get_original("_thread", "start_new_thread")
    sleep_thread = gevent.monkey.get_original("time", "sleep")
    gevent.get_hub()  # two threads that both make the first one wait for each other, in the lock of an import
else:
    import warnings
    warnings.simplefilter("ignore")
    import eventlet, eventlet.patcher, eventlet.hubs
    from greenlet import GreenletExit as Killed
    eventlet.monkey_patch()
    sleep, spawn, Timeout = eventlet.sleep, eventlet.spawn, eventlet.Timeout
    def wait(greenlets):
        with Timeout(30):
            for greenlet in greenlets:
                try:
                    greenlet.wait()
                except Killed:
                    pass
    def kill(greenlet):
        greenlet.kill()
    start_thread = eventlet.patcher.original("_thread").start_new_thread
    sleep_thread = eventlet.patcher.original("time").sleep
import mempool
from mempool import Objects, Pool, PoolTimeout, parking
from mempool.testing import assert_books

def until(condition):
    with Timeout(20):
        while not condition():
            sleep(0.001)  # sleeps: sleep(0) would keep the GIL from native threads, for 5 ms each time that one wants it

def assert_all_came_back(pool):
    until(lambda: pool.stats().out == 0)  # a thread that was served last may not have given back yet
    assert_books(pool, spare=pool.limit)
    assert pool.waiting == 0
"""


def scene(library: str, order: str, script: str, timeout: float = 90) -> str:
    """What the script prints. Not in `children.run`, whose prelude would import mempool before the patching."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed; it has no release for each Python")
    command = [sys.executable, "-c", SCENE + textwrap.dedent(script), library, order]
    environment = os.environ | {"EVENTLET_NO_GREENDNS": "yes"}  # nobody asks for an address; and it imports for long
    environment["PYTHON_GIL"] = "1"  # greenlet turns it on when it is imported, and crashes at times where it is kept off
    ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    assert ended.returncode == 0, f"status {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


#: Each library and each order. In one run a test has one of the four, which its name decides, and in the run of the other
#: core the one that differs in both. In `make long` all four.
both = pytest.mark.parametrize(
    ("library", "order"),
    [
        ("gevent", "mempool first"),
        ("gevent", "patched first"),
        ("eventlet", "patched first"),
        ("eventlet", "mempool first"),
    ],
)


@both
@pytest.mark.sample(4, drawn=True)
def test_a_greenlet_that_waits_lets_the_one_go_on_that_holds(library: str, order: str) -> None:
    """The simple case: one element, two greenlets, each sleeps while it holds. The order is that of arrival."""
    said = scene(
        library,
        order,
        """
        pool = Pool(Objects(bytearray), 1, limit=1, track="holders")
        held = []
        def work(name):
            for _ in range(3):
                with pool.lease():
                    held.append(name)
                    sleep(0.01)  # sleeps: the case is one that holds while it sleeps
        wait([spawn(work, "a"), spawn(work, "b")])
        assert_all_came_back(pool)
        print(*held)
        """,
    )
    assert said == "a b a b a b\n"


@both
@pytest.mark.sample(4, drawn=True)
def test_a_native_thread_and_a_greenlet_wake_each_other(library: str, order: str) -> None:
    """The hub sleeps without a timer of ours, in its second place in the line; a thread's free reaches it, and back."""
    scene(
        library,
        order,
        """
        pool = Pool(Objects(bytearray), 1, limit=1)
        served, rounds = [], 200
        def in_thread():
            for _ in range(rounds):
                with pool.lease():
                    served.append("thread")
            served.append("thread over")
        def in_greenlet():
            for _ in range(rounds):
                with pool.lease():
                    served.append("greenlet")
        element = pool.alloc()
        greenlets = [spawn(in_greenlet), spawn(in_greenlet)]
        start_thread(in_thread, ())
        until(lambda: pool.stats().waiting == 3)
        pool.free(element)
        wait(greenlets)
        until(lambda: "thread over" in served)
        assert (served.count("thread"), served.count("greenlet")) == (rounds, 2 * rounds)
        assert_all_came_back(pool)
        """,
    )


@both
@pytest.mark.sample(4, drawn=True)
def test_a_standing_line_of_greenlets_and_threads_is_served_in_order(library: str, order: str) -> None:
    """Greenlets and native threads join one at a time; then each free serves the one that came first."""
    said = scene(
        library,
        order,
        """
        pool = Pool(Objects(bytearray), 1, limit=1)
        served = []
        def take(name):
            element = pool.alloc()
            served.append(name)
            pool.free(element)
        element = pool.alloc()
        greenlets = []
        for number in range(12):
            if number % 3:
                greenlets.append(spawn(take, number))
            else:
                start_thread(take, (number,))
            until(lambda: pool.stats().waiting == number + 1)
        pool.free(element)
        wait(greenlets)
        until(lambda: len(served) == 12)
        assert_all_came_back(pool)
        print(served == list(range(12)))
        """,
    )
    assert said == "True\n"


@both
@pytest.mark.sample(4, drawn=True)
def test_timeouts_of_the_pool_and_of_the_library_and_kills_lose_nothing(library: str, order: str) -> None:
    """Each ends a wait in the line, from the hub; whoever stood behind is served; the main greenlet waits, too."""
    scene(
        library,
        order,
        """
        pool = Pool(Objects(bytearray), 1, limit=1)
        element = pool.alloc()
        ended = []
        def call(how):
            try:
                if how == "pool":
                    pool.alloc(timeout=0.01)
                elif how == "library":
                    with Timeout(0.01):
                        pool.alloc()
                else:
                    pool.free(pool.alloc())
            except BaseException as error:
                ended.append((how, type(error).__name__))
                if how not in ("pool", "library", "kill"):
                    raise
            else:
                ended.append((how, "served"))
        greenlets = [spawn(call, how) for how in ("pool", "library", "kill", "free")]
        until(lambda: pool.stats().waiting == 4 or len(ended) == 2)
        kill(greenlets[2])
        until(lambda: len(ended) == 3)
        assert sorted(ended) == [("kill", "GreenletExit"), ("library", "Timeout"), ("pool", "PoolTimeout")], ended
        spawn(lambda: (sleep(0.01), pool.free(element)))  # sleeps: until the main greenlet waits
        pool.free(pool.alloc(timeout=20))  # the main greenlet, behind the fourth
        assert ended[-1] == ("free", "served")
        wait(greenlets)
        assert_all_came_back(pool)
        """,
    )


@both
@pytest.mark.sample(4)
@pytest.mark.parametrize("track", [pytest.param("identity", marks=pytest.mark.long), "holders"])
def test_a_hundred_greenlets_and_four_threads_on_two_buffers_with_kills_lose_nothing(
    library: str, order: str, track: str
) -> None:
    """Kills and timeouts at every moment of a wait, between hand-offs from threads and greenlets; the process ends."""
    said = scene(
        library,
        order,
        f"""
        import random
        from mempool import Buffers
        pool = Pool(Buffers(4096), 2, limit=2, track={track!r})
        draw = random.Random(7)
        over, killed, late, served = [], [], [], []
        holding = []
        def hold(pause):
            with pool.lease() as buf:
                holding.append(buf)
                assert len(holding) <= 2
                try:
                    if pause is not None:
                        pause(draw.random() / 2000)
                finally:
                    holding.remove(buf)
            served.append(1)
        def in_greenlet():
            for _ in range(8):
                try:
                    with Timeout(draw.choice([0.002, 20])):
                        hold(sleep)
                except Timeout:
                    late.append(1)
                except Killed:
                    killed.append(1)
                    raise
        def in_thread():
            for _ in range(200):
                hold(draw.choice([None, sleep_thread]))
            over.append(1)
        for _ in range(4):
            start_thread(in_thread, ())
        greenlets = [spawn(in_greenlet) for _ in range(100)]
        def kills():
            for greenlet in draw.sample(greenlets, 30):
                sleep(0.002)  # sleeps: the kills are spread over the run
                kill(greenlet)
        wait([spawn(kills)] + greenlets)
        until(lambda: len(over) == 4)
        assert_all_came_back(pool)
        assert killed and late and len(served) > 800, (len(killed), len(late), len(served))
        print("all back")
        """,
    )
    assert said == "all back\n"


@both
@pytest.mark.sample(4, drawn=True)
def test_who_holds_and_who_waits_is_a_greenlet(library: str, order: str) -> None:
    """Two greenlets of one thread are two holders: a circle of two is a deadlock, and one that holds both ends is none."""
    scene(
        library,
        order,
        """
        from mempool import DeadlockError
        one, other = (Pool(Objects(bytearray), 1, limit=1, name=name, track="holders") for name in ("one", "other"))
        said = []
        def take(first, second):
            with first.lease():
                until(lambda: one.holders() and other.holders())
                try:
                    with second.lease(timeout=20):
                        said.append("served")
                except DeadlockError as error:
                    said.append(str(error))
        greenlets = [spawn(take, one, other), spawn(take, other, one)]
        until(lambda: one.holders() and other.holders())
        assert one.holders()[0].who.startswith("greenlet "), one.holders()
        assert one.holders()[0].who != other.holders()[0].who
        wait(greenlets)
        assert "served" in said and sum("greenlet" in words for words in said) == 1, said
        assert parking.current_owner().name == "MainThread"
        assert_all_came_back(one), assert_all_came_back(other)
        """,
    )


@both
@pytest.mark.sample(4, drawn=True)
def test_greenlets_of_a_thread_that_ends_lose_their_places_and_no_element(library: str, order: str) -> None:
    """A native thread with a hub of its own ends while two of its greenlets stand in the line: the next is served."""
    scene(
        library,
        order,
        """
        pool = Pool(Objects(bytearray), 1, limit=1)
        element = pool.alloc()
        ended, waits = [], []
        def thread():
            waits.append([spawn(pool.alloc), spawn(pool.alloc)])
            while pool.stats().waiting < 2:
                sleep(0.001)  # sleeps: between two looks
            ended.append(1)
        start_thread(thread, ())
        until(lambda: ended)
        behind = spawn(lambda: pool.free(pool.alloc(timeout=20)))
        until(lambda: pool.stats().waiting == 1)  # the thread has ended, and its greenlets with it
        pool.free(element)
        wait([behind])
        assert_all_came_back(pool)
        """,
    )


@both
@pytest.mark.sample(4, drawn=True)
def test_a_caller_in_the_hub_itself_and_a_thread_without_a_hub_wait_as_threads(library: str, order: str) -> None:
    """Neither has a hub to switch to; a native thread serves both."""
    scene(
        library,
        order,
        """
        pool = Pool(Objects(bytearray), 1, limit=1)
        served = []
        element = pool.alloc()
        def take():
            pool.free(pool.alloc(timeout=20))
            served.append(type(parking.parker_here(pool._clock)).__name__)
        start_thread(take, ())
        until(lambda: pool.stats().waiting == 1)
        def free():
            while pool.stats().waiting < 2:
                sleep_thread(0.001)
            pool.free(element)
        start_thread(free, ())
        if sys.argv[1] == "gevent":
            gevent.get_hub().loop.run_callback(take)
        else:
            eventlet.hubs.get_hub().schedule_call_global(0, take)
        until(lambda: len(served) == 2)
        assert served == ["ThreadParker"] * 2, served
        assert_all_came_back(pool)
        """,
    )


def test_after_a_fork_the_childs_greenlets_wait_and_wake() -> None:
    """gevent takes all greenlets of the forking thread into the child: they keep their places, here and there."""
    said = scene(
        "gevent",
        "mempool first",
        """
        import os
        pool = Pool(Objects(bytearray), 1, limit=1)
        served = []
        def take(name):
            with pool.lease():
                served.append(name)
                sleep(0)  # sleeps: the others' turn
        element = pool.alloc()
        greenlets = [spawn(take, "a"), spawn(take, "b")]
        until(lambda: pool.stats().waiting == 2)
        start_thread(take, ("thread",))
        until(lambda: pool.stats().waiting == 3)
        child = os.fork()
        pool.free(element)
        wait(greenlets)
        if child:
            until(lambda: len(served) == 3)
            assert os.waitpid(child, 0)[1] == 0
        else:
            wait([spawn(take, "c"), spawn(take, "d")])
            start_thread(take, ("e",))
            until(lambda: "e" in served)
            assert served == ["a", "b", "c", "d", "e"], served
        assert_all_came_back(pool)
        sys.stdout.write("parent" if child else "child ")
        sys.stdout.flush()
        if not child:
            os._exit(0)
        """,
    )
    assert said == "child parent"


@pytest.mark.parametrize("order", ORDERS)
def test_after_a_fork_a_new_hub_of_eventlet_serves_the_child(order: str) -> None:
    """eventlet wants a hub of its own in the child; who waited under the old one loses its place."""
    said = scene(
        "eventlet",
        order,
        """
        import os
        pool = Pool(Objects(bytearray), 1, limit=1)
        served = []
        def take(name):
            with pool.lease():
                served.append(name)
                sleep(0)  # sleeps: the others' turn
        element = pool.alloc()
        waits = spawn(take, "parent's")
        until(lambda: pool.stats().waiting == 1)
        child = os.fork()
        if child == 0:
            eventlet.hubs.use_hub()
            pool.free(element)
            greenlets = [spawn(take, "a"), spawn(take, "b")]
            start_thread(take, ("thread",))
            until(lambda: len(served) == 3)
            assert served.index("a") < served.index("b")
        else:
            sleep(0)  # sleeps: the others' turn
            pool.free(element)
            wait([waits])
            assert os.waitpid(child, 0)[1] == 0
            assert served == ["parent's"]
        assert_all_came_back(pool)
        sys.stdout.write("parent" if child else "child ")
        sys.stdout.flush()
        os._exit(0) if child == 0 else None
        """,
    )
    assert said == "child parent"


@both
@pytest.mark.sample(4, drawn=True)
def test_a_process_ends_while_a_thread_and_greenlets_wait(library: str, order: str) -> None:
    """Nobody will ever serve them: neither keeps the interpreter from ending."""
    said = scene(
        library,
        order,
        """
        pool = Pool(Objects(bytearray), 1, limit=1)
        element = pool.alloc()
        spawn(pool.alloc), start_thread(lambda: pool.alloc(), ())
        until(lambda: pool.stats().waiting == 2)
        sys.stderr = open("/dev/null", "w")  # PoolClosed in the thread
        print("ends")
        """,
    )
    assert said == "ends\n"


BESIDE_A_LOOP = """
import asyncio, importlib, sys
importlib.import_module(sys.argv[1])
from mempool import parking

async def main():
    loop, told = asyncio.get_running_loop(), []
    loop.call_soon(lambda: told.append(parking.stopped_here()))
    await asyncio.sleep(0)
    print(parking.stopped_here() == [loop], told)

asyncio.run(main())
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_beside_greenlets_a_task_stops_its_loop_and_no_other_code_does(library: str) -> None:
    """What a source does for a task that runs is still for a thread, where the pool offloads."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    command = [sys.executable, "-W", "ignore", "-c", BESIDE_A_LOOP, library]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("True [[]]\n", "")


@pytest.mark.stress
@pytest.mark.timeout(0)
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_minute_of_greenlets_and_native_threads_that_wake_each_other(library: str) -> None:
    """No wake-up is lost: everybody who waits is served within the timeout, with a kill or a timeout in each 50th wait."""
    said = scene(
        library,
        "mempool first",
        f"""
        import random, time
        pool = Pool(Objects(bytearray), 2, limit=2, patience=None)
        draw, ends = random.Random(11), time.monotonic() + {SECONDS}
        turns = dict(greenlet=0, thread=0, late=0, killed=0)
        over = []
        def in_greenlet():
            while time.monotonic() < ends:
                try:
                    with Timeout(0.0005 if draw.random() < 0.02 else 30):
                        with pool.lease(timeout=20):
                            turns["greenlet"] += 1
                            if draw.random() < 0.5:
                                sleep(0)  # sleeps: the others' turn
                except Timeout:
                    turns["late"] += 1
                except Killed:
                    turns["killed"] += 1
                    raise
        def in_thread():
            try:
                while time.monotonic() < ends:
                    with pool.lease(timeout=20):
                        turns["thread"] += 1
            finally:
                over.append(1)
        for _ in range(4):
            start_thread(in_thread, ())
        living = [spawn(in_greenlet) for _ in range(100)]
        ended = []
        while time.monotonic() < ends:
            sleep(0.02)  # sleeps: the kills are spread over the run
            place = draw.randrange(100)
            kill(living[place])
            ended.append(living[place])
            living[place] = spawn(in_greenlet)
        wait(living + ended)
        until(lambda: len(over) == 4)
        stats = pool.stats()
        assert_all_came_back(pool)
        print(turns, stats.waits_timed_out, stats.wait_seconds_max)
        """,
        timeout=SECONDS + 120,
    )
    print(library, said)
    assert "'killed': 0" not in said
    assert said.split("} ")[1].startswith("0 "), said


def test_a_greenlet_of_eventlet_waits_without_a_limit_of_time() -> None:
    """The pool's own waits have one, to ask the source again; another caller's need not. And no timer is left."""
    said = scene(
        "eventlet",
        "mempool first",
        """
        from mempool.greenlets import EventletWakes
        hub = eventlet.hubs.get_hub()
        wakes = EventletWakes(hub)
        greenlet = spawn(wakes.get)
        sleep(0)  # sleeps: the others' turn
        wakes.put(None)
        wait([greenlet])
        timers, schedule = [], hub.schedule_call_global
        hub.schedule_call_global = lambda *call: timers.append(schedule(*call)) or timers[-1]
        greenlet = spawn(wakes.get, 3600)
        sleep(0)  # sleeps: the others' turn
        made = timers[0]
        wakes.put(None)
        wait([greenlet])
        print("waits", made.called)  # as eventlet says of one that was cancelled
        """,
    )
    assert said == "waits True\n"


class Pipes:
    """What a bell of eventlet has of `os`, and its hub. It has no pipe, or gives these numbers, and notes what is closed."""

    READ = "read"

    def __init__(self, ends: tuple[int, int] | None) -> None:
        self.ends = ends
        self.closed: list[int] = []

    def original(self, _name: str) -> Pipes:
        return self

    def pipe(self) -> tuple[int, int]:
        if self.ends is None:
            raise OSError("too many open files")
        return self.ends

    def set_blocking(self, _end: int, _blocks: bool) -> None:
        pass

    def add(self, *_listener: object) -> None:
        pass

    def close(self, end: int) -> None:
        self.closed.append(end)


def test_a_bell_closes_both_ends_of_its_pipe_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that found no pipe has none: what it closed then would be somebody's, standard input say."""
    for ends in ((1000, 1001), None):
        pipes = Pipes(ends)
        monkeypatch.setitem(sys.modules, "eventlet.patcher", pipes)
        with pytest.raises(OSError, match="too many open files") if ends is None else contextlib.nullcontext():
            Bell(pipes)
        gc.collect()
        assert [end for end in pipes.closed if end >= 0] == list(ends or ())


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_a_library_that_is_imported_after_this_thread_has_waited_is_noticed(library: str) -> None:
    """Who waits asks whether there may be greenlets, and need not look again while sys.modules is what it was."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed; it has no release for each Python")
    script = f"""
        import sys, threading
        from mempool import Objects, Pool
        pool = Pool(Objects(bytearray), 1, limit=1)
        for _ in range(2):  # the second wait is one that knows from the first
            held, ready = [pool.alloc()], threading.Event()
            giver = threading.Thread(target=lambda: (ready.wait(), until_one_waits(), pool.free(held.pop())))
            def until_one_waits():
                while pool.waiting == 0:
                    threading.Event().wait(0.001)
            giver.start()
            ready.set()
            pool.free(pool.alloc())
            giver.join()
        import {library}
        order = []
        def work(name):
            with pool.lease():
                order.append(name)
                {library}.sleep(0.01)  # sleeps: the case is one that holds while it sleeps
        if {library!r} == "gevent":
            gevent.joinall([gevent.spawn(work, name) for name in "ab"], timeout=30)
        else:
            for greenlet in [eventlet.spawn(work, name) for name in "ab"]:
                greenlet.wait()
        print(*order)
        """
    environment = os.environ | {"EVENTLET_NO_GREENDNS": "yes", "PYTHON_GIL": "1"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=90, env=environment, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, f"status {ended.returncode}\n{ended.stdout}{ended.stderr}"
    assert ended.stdout == "a b\n"


def patched() -> None:
    """What a library of greenlets has put in the place of a function."""


def test_what_a_library_has_replaced_is_had_as_cpython_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that library knows; a thread that is still importing it may see a part of it, which has replaced nothing."""
    module = ModuleType("made_by_cpython")
    module.function, module.other = patched, max  # type: ignore[attr-defined]
    original = SimpleNamespace(__module__=module.__name__)
    for name, library in (
        ("gevent.monkey", SimpleNamespace(get_original=lambda _module, _name: original)),
        ("eventlet.patcher", SimpleNamespace(original=lambda _module: SimpleNamespace(function=original))),
    ):
        with monkeypatch.context() as here:
            here.setitem(sys.modules, name, library)
            assert native._unpatched(module, "function") is original
            here.setitem(sys.modules, name, SimpleNamespace())
            assert native._unpatched(module, "function") is patched
    assert native._unpatched(module, "other") is max
    assert native._unpatched(module, "missing") is None


def test_a_thread_is_of_the_patched_class_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is the greenlet's; and elsewhere it is the library's own, which ends without a word."""

    class Patched(threading.Thread):
        pass

    assert type(native.thread(patched, "mempool test")) is native._Thread
    monkeypatch.setattr(native, "threading", SimpleNamespace(Thread=Patched))
    made = native.thread(patched, "mempool test")
    assert (type(made), made.name, made.daemon) == (Patched, "mempool test", True)
