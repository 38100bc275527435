"""Free-threaded Pythons: what is refused there, and what holds."""

from __future__ import annotations

import _thread
import functools
import gc
import operator
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest
import without_the_gil

import mempool
from mempool import Buffers, Pool


def import_without_the_gil(**variables: str) -> subprocess.CompletedProcess[str]:
    """Import mempool in a child that runs without the GIL, or says so."""
    code = "import sys; sys._is_gil_enabled = lambda: False; import mempool; print(mempool.IMPLEMENTATION)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMPOOL_")} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_uncompiled_core_is_refused_without_the_gil() -> None:
    """It relies on the GIL; whoever runs without gets a sentence at once, and no wrong answer later."""
    done = import_without_the_gil(MEMPOOL_PURE="1")
    assert done.returncode == 1
    assert "ImportError: mempool: the core is not compiled, and this Python runs without the GIL" in done.stderr
    assert "PYTHON_GIL=1" in done.stderr


@pytest.mark.skipif(not without_the_gil.BUILT_WITHOUT, reason="this Python has a GIL that cannot be kept off")
def test_the_gil_stays_off_when_all_but_the_shared_pool_is_imported() -> None:
    """One module that does not declare it, of ours or beneath us, would turn it on for the whole process, with a warning."""
    code = """
import pkgutil, sys, mempool

for module in pkgutil.walk_packages(mempool.__path__, "mempool."):
    if not module.name.startswith(("mempool.shared", "mempool.benchmarks")) and "__main__" not in module.name:
        try:
            __import__(module.name)
        except ImportError:
            pass  # of what is not installed
        assert not sys._is_gil_enabled(), module.name
assert mempool.IMPLEMENTATION == "compiled"
print(len([name for name in sys.modules if name.startswith("mempool.")]))
"""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHON_GIL", "MEMPOOL_PURE"}}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


# -- the stress for such Pythons: `python -m verification.without_the_gil`


def stress(*arguments: str) -> int:
    """How many scenes failed."""
    module = pytest.importorskip("verification.without_the_gil", reason="the tests run without the rest of the tree")
    failed: int = module.main([*arguments])
    return failed


def test_each_scene_is_played_once_where_there_is_no_time_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    """On a machine that is busy enough, all of a scene's time is over before its threads have begun."""
    assert stress("0", "load-objects-identity-8", "frees-objects-identity", "releases-4096", "limited", "memory-64") == 0
    played = [line.split(": ") for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert len(played) > 5
    assert [name for name, times in played if int(times) == 0] == []


def test_a_scene_that_has_done_nothing_has_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that tested less than it says is told."""
    module = pytest.importorskip("verification.without_the_gil", reason="the tests run without the rest of the tree")
    monkeypatch.setattr(module, "scenes", lambda: iter([("idle", lambda _seconds: 0), ("busy", lambda _seconds: 1)]))
    assert stress("1") == 1
    assert "idle: FAILED: Fault: it was not played" in capsys.readouterr().out


def test_where_no_scene_has_that_name_the_stress_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the pen is no run that found nothing."""
    assert stress("1", "lode") == 1
    assert "no scene is called lode" in capsys.readouterr().out


# -- the same under ThreadSanitizer: `python -m verification.races`

REPORT = """
WARNING: ThreadSanitizer: data race (pid=1)
  Write of size 8 at 0x7f9d82400000 by thread T1:
    #0 memset ../sanitizer_common_interceptors.inc:799 (libtsan.so.2+0x5cbc4)
    #1 {first}
    #2 method_vectorcall_O Objects/descrobject.c:475 (python3.13t+0x137bc5)

  Previous atomic read of size 8 at 0x7f9d82400000 by thread T2:
    #0 {second}
    #1 __pyx_pw_fill build/cython/src/mempool/buffer.c:8181 (buffer.cpython-313t-x86_64-linux-gnu.so+0x19a0a)

  Thread T2 (tid=2, running) created by main thread at:
    #0 pthread_create ../tsan_interceptors_posix.cpp:1001 (libtsan.so.2+0x5e686)
"""
OURS = "__pyx_f_7mempool_6buffer_overwrite <null> (buffer.cpython-313t-x86_64-linux-gnu.so+0x19a0a)"
CPYTHON = "list_resize Objects/listobject.c:71 (python3.13t+0x19a0a)"


@pytest.mark.parametrize(
    ("first", "second", "ours", "is_listed"),
    [
        (OURS, CPYTHON, True, True),
        (CPYTHON, OURS, True, True),
        (CPYTHON, CPYTHON, False, True),
        (OURS, OURS, True, False),
        (CPYTHON.replace("list_resize", "dict_resize"), CPYTHON.replace("list_resize", "another"), False, False),
    ],
)
def test_a_race_is_ours_if_one_of_its_accesses_is_in_a_module_of_ours(
    first: str, second: str, ours: bool, is_listed: bool
) -> None:
    """Whoever called it, and whatever is listed of CPython; the sanitizer's own frames, innermost, are passed over."""
    races = pytest.importorskip("verification.races", reason="the tests run without the rest of the tree")
    report = races.Report(REPORT.format(first=first, second=second))
    assert report.is_in({"buffer.cpython-313t-x86_64-linux-gnu.so"}) == ours
    assert report.is_listed({"list_resize"}) == is_listed
    assert [len(stack) for stack in report.accesses()] == [2, 2]


def test_where_a_planted_race_is_not_told_nothing_else_is_played(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A detector that is blind finds no race, which proves nothing."""
    races = pytest.importorskip("verification.races", reason="the tests run without the rest of the tree")
    played: list[str] = []

    def play(_interpreter: str, _installed: str, code: str, *_arguments: str) -> object:
        played.append(code)
        return races.Played(0, [], [])

    monkeypatch.setattr(races, "play", play)
    assert races.main(["python"]) == 1
    assert played == [races.CONTROL]
    assert "this tells of no race" in capsys.readouterr().out


DUELS = (
    "duel-of-frees-identity",
    "duel-of-frees-lingering-identity",
    "duel-of-frees-nothing",
    "duel-of-frees-lingering-nothing",
    "duel-of-addresses",
    "duel-of-owners",
    "duel-of-slots",
)


@pytest.mark.parametrize("scene", DUELS)
def test_two_that_do_it_in_the_same_instant_do_it_one_after_the_other(
    scene: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Free one buffer, with its views; look at what the other one lets go of. In `make stress-ft` for longer."""
    if scene == "duel-of-slots" and mempool.IMPLEMENTATION != "compiled":
        pytest.skip("uncompiled, figures are mirrored into a page, of which a process has one")
    assert stress("2" if without_the_gil.IS_OFF else "0", scene) == 0, capsys.readouterr().out


# -- how threads scale: `python -m verification.scaling`


def test_beside_each_figure_of_threads_stands_that_of_processes() -> None:
    """Played once, however busy the machine is, and whoever was disturbed is told."""
    pytest.importorskip("verification.scaling", reason="the tests run without the rest of the tree")
    done = subprocess.run(
        [sys.executable, "-m", "verification.scaling", "0", "identity", "SimpleQueue"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()[2:] if line[0] != " "] == ["identity", "SimpleQueue"]
    assert done.stdout.count("1 rounds; void: alone ") == 2
    assert done.stdout.count("two threads, one each") == done.stdout.count("control: two processes, one each") == 2
    assert done.stdout.count("of SimpleQueue's") == 1
    assert [done.stdout.count(f"{many} threads on one, in sum") for many in ("two", "4", "8")] == [2, 2, 2]


def test_a_round_counts_where_a_player_waited_for_the_other_and_not_where_its_processor_was_taken() -> None:
    """Else threads that wait for a lock of the library would be taken for a busy machine, and left out."""
    scaling = pytest.importorskip("verification.scaling", reason="the tests run without the rest of the tree")
    player = scaling.Player(0, memoryview(bytearray(8 * scaling.LINE)).cast("q"))
    for descriptor in (*player.commands, *player.answers):
        os.close(descriptor)

    def disturbed(processor: int, taken_away: int, waited: int, late: int = 0) -> bool:
        for field, value in (
            (scaling.LATE, late),
            (scaling.PAIRS, 10),
            (scaling.TOOK, 1000),
            (scaling.PROCESSOR, processor),
            (scaling.TAKEN_AWAY, taken_away),
            (scaling.WAITED, waited),
        ):
            player.tell(field, value)
        return bool(player.was_disturbed())

    assert not disturbed(1000, 0, 0)
    assert not disturbed(950, 1, 0)
    assert not disturbed(400, 0, 3)
    assert disturbed(400, 1, 3)
    assert disturbed(400, 0, 0)  # a virtual machine that did not run
    assert disturbed(1000, 0, 0, late=1)


def test_a_ratio_is_of_two_bursts_of_one_round_and_there_is_none_of_a_void_one() -> None:
    """Two threads that do 1.8 times the work of one come to 0.9 N; by processor time it may be more."""
    scaling = pytest.importorskip("verification.scaling", reason="the tests run without the rest of the tree")
    one = scaling.Round({"alone": scaling.Burst(2.0, 2.0), "threads": scaling.Burst(3.6, 4.0), "processes": None})
    assert one.ratio("threads", "alone", 2) == pytest.approx(0.9)
    assert one.ratio("threads", "alone", 2, "processor_rate") == pytest.approx(1.0)
    assert one.ratio("processes", "alone", 2) is None
    assert scaling.relative([0.9, 0.8, None], [0.9, None, 0.9]) == [1.0, None, None]
    assert scaling.spread([0.9, None, 1.0, 0.8, 0.95, 0.85]) == " 0.90 (0.80 to 1.00)"
    assert scaling.spread([0.9, None]) == "in 1 rounds: too few"


# -- what a thread has made that sleeps: without the GIL CPython takes away the last reference to it when that one wakes


class Sleeper:
    """A thread that has done something and sleeps until the end of the block."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.done: list[object] = []
        self.has_acted, self.end = threading.Event(), threading.Event()
        self.act: Callable[[], object] | None = act
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        act, self.act = self.act, None
        assert act is not None
        self.done.append(act())
        del act
        self.has_acted.set()
        self.end.wait(60)

    def __enter__(self) -> list[object]:
        self.thread.start()
        assert self.has_acted.wait(60)
        return self.done

    def __exit__(self, *_exception: object) -> None:
        self.end.set()
        self.thread.join(60)


# -- who counts the references to a buffer's block, where each thread counts what it has made by itself


def each_in_turn(count: int, act: Callable[[], object]) -> None:
    """As many threads, which live at the same time, do this one after the other."""
    turns = [threading.Event() for _ in range(count + 1)]

    def take_turn(number: int) -> None:
        assert turns[number].wait(60)
        act()
        turns[number + 1].set()

    threads = [threading.Thread(target=take_turn, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    turns[0].set()
    for thread in threads:
        thread.join(60)
    assert turns[count].is_set()


@pytest.mark.parametrize("is_kept_meanwhile", [False, True])
def test_a_block_that_goes_from_thread_to_thread_is_counted_right(is_kept_meanwhile: bool) -> None:
    """Who takes its buffer counts it as its own, unless somebody else has it, too: no count of either is lost."""
    kept: list[object] = []
    with Pool(Buffers(4096), 1, limit=1) as pool:

        def take() -> None:
            for _ in range(3):
                buffer = pool.alloc()
                if is_kept_meanwhile:
                    kept.append(buffer.block)
                pool.free(buffer)

        take()
        each_in_turn(8, take)
        kept.clear()
        buffer = pool.alloc()
        block = buffer.block
        new = Pool(Buffers(4096), 1).alloc()
        block_of_new = new.block
        counts = [sys.getrefcount(block), sys.getrefcount(block_of_new)]
        assert counts == [counts[1]] * 2
        pool.free(buffer)


@pytest.mark.parametrize("track", ["identity", "nothing", "holders"])
def test_a_view_is_over_when_it_is_released_though_who_made_it_sleeps(track: str) -> None:
    """A worker hands over what it has read, and waits for its next job: who is done with it can free the buffer."""
    pool = Pool(Buffers(4096), 1, track=track)
    buffer = pool.alloc()
    with Sleeper(lambda: buffer[:]) as done:
        view = done.pop()
        assert isinstance(view, memoryview)
        assert buffer.views() == 1
        view.release()
        assert buffer.views() == 0
        pool.free(buffer)
        assert pool.stats().out == 0


def test_an_exception_during_which_a_view_is_released_goes_on() -> None:
    """As an iteration over a buffer ends: by an index too large, of a view that is released then."""
    pool = Pool(Buffers(4096), 1)
    buffer = pool.alloc()
    with pytest.raises(IndexError):
        buffer[4096]
    assert sum(buffer) == sum(bytes(buffer[:]))
    pool.free(buffer)


def test_a_view_that_is_kept_besides_is_not_over_when_it_is_released() -> None:
    """Whoever keeps what it looked through, as torch does, may look on."""
    pool = Pool(Buffers(4096), 1)
    buffer = pool.alloc()
    with Sleeper(lambda: buffer[:]) as done:
        view = done.pop()
        assert isinstance(view, memoryview)
        kept = view.obj
        view.release()
        if mempool.IMPLEMENTATION == "compiled":  # uncompiled, that is the buffer itself, or dead
            assert buffer.views() == 1
            with pytest.raises(BufferError):
                pool.free(buffer)
    del kept, view
    gc.collect()  # what the sleeper made is at its end by now
    pool.free(buffer)


@pytest.mark.parametrize("track", ["identity", "nothing", "holders"])
def test_a_buffer_that_lingers_is_returned_with_its_last_view_though_who_freed_it_sleeps(track: str) -> None:
    """And whoever waits for it has it, and does not wait for that other thread."""
    pool = Pool(Buffers(4096), 1, limit=1, track=track)
    buffer = pool.alloc()
    view = buffer[:]
    with Sleeper(lambda: pool.free(buffer, linger=True)):
        assert pool.stats().lingering == 1
        assert pool.try_alloc() is None
        view.release()
        assert (pool.stats().out, pool.stats().lingering) == (0, 0)
        pool.free(pool.alloc(timeout=0))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_dropped_buffer_is_returned_with_its_last_view_though_who_took_it_sleeps() -> None:
    """Nobody has the handle any more; what the view was is released by another thread."""
    pool = Pool(Buffers(4096), 1)
    with Sleeper(lambda: pool.alloc()[:]) as done:
        view = done.pop()
        assert isinstance(view, memoryview)
        assert pool.stats().out == 1
        view.release()
        assert pool.stats().out == 0


# -- a SharedPool, and forks


@pytest.mark.skipif(not without_the_gil.BUILT_WITHOUT, reason="this Python has a GIL that cannot be kept off")
def test_a_shared_pool_is_refused_where_the_gil_is_kept_off() -> None:
    """Two threads would be one client that does two things at once; with the GIL, which it brings back, it works."""
    if not sys.platform.startswith("linux"):
        pytest.skip("a SharedPool needs Linux")
    code = "import mempool.shared.engine, sys; print(sys._is_gil_enabled())"
    done = {
        said: subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=os.environ | {"PYTHON_GIL": said},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for said in "01"
    }
    assert done["0"].returncode == 1
    assert "ImportError: mempool.shared: the threads of a process are one client" in done["0"].stderr
    assert "start Python without PYTHON_GIL=0" in done["0"].stderr
    assert (done["1"].returncode, done["1"].stdout) == (0, "True\n"), done["1"].stderr


#: A fork at which threads of the parent have just been handed CPython's own locks of all tables of mempool's, and of objects
#: whose attributes threads store: they stay locked in the child. Each is a byte of the head, see object.h; it is set before
#: mempool's hooks run in the child.
LOCKED_AT_THE_FORK = """
import collections, ctypes, faulthandler, os, sys

MUTEX = 10  # after ob_tid and ob_flags; object.h

tables = []

def lock():
    faulthandler.dump_traceback_later(20, exit=True)
    for table in tables:
        ctypes.c_ubyte.from_address(id(table) + MUTEX).value = 1

os.register_at_fork(after_in_child=lock)

import mempool
from mempool import Buffers, Fallback, Limited, Objects, Pool, background, lifecycle
from mempool.sources import forks

kinds = (dict, list, set, collections.deque)
limited = Limited(Buffers(4096), elements_max=40)
fallback = Fallback(Limited(Buffers(4096), elements_max=1), Buffers(4096))
tracked = [Pool(Objects(bytearray), 2, track=track) for track in ("nothing", "identity", "holders")]
pools = [Pool(limited, 2), Pool(fallback, 2), *tracked]
kept = [mempool.upkeep(pool, every=3600) for pool in pools]
for pool in pools:
    engine = pool._engine
    tables += [engine.under_way, engine.giving.fills]
tables += [pools[-1]._engine.tracker._entries, limited._free, fallback._seconds, limited.source._memory._blocks, sys.modules]
tables += [lifecycle._engines, lifecycle.unfinished, lifecycle._hooks, background.SERVICE._jobs]
tables += [forks._forks, forks._mortals]
assert all(type(table) in kinds for table in tables), tables
# An object's lock is taken where one of its attributes is stored.
for pool in pools:
    tables += [pool, pool._engine, pool._engine.supply, pool._engine.giving, pool._engine.tracker]
tables += [limited, limited.source, fallback, fallback.source, fallback.second, background.SERVICE]
out = [pool.alloc() for pool in pools]

child = os.fork()
if child == 0:
    status = 1
    try:
        for pool, element in zip(pools, out):
            pool.free(element)
            elements = pool.alloc_many(5)  # more than there are: the source is asked
            pool.free_many(elements)
            pool.resize(reserve=7)
            with pool.lease():
                pool.why_empty()
        for one in kept:
            one.close()
        for pool in pools:
            pool.close()
        status = 0
    finally:
        os._exit(status)
print("child", os.waitpid(child, 0)[1], flush=True)
for pool, element in zip(pools, out):
    pool.free(element)
"""


@pytest.mark.skipif(not without_the_gil.IS_OFF, reason="with the GIL there are no such locks")
def test_a_forked_child_waits_for_no_lock_of_a_table() -> None:
    """CPython may hand a table's lock to a thread that it then stops for the fork: nobody will ever open it in the child."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(LOCKED_AT_THE_FORK)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "child 0\n"), done.stderr


WATCHED = """
import faulthandler, os, threading

faulthandler.dump_traceback_later(150, exit=True)

def ended(child):
    deadline = threading.Timer(100, os.kill, (child, 9))
    deadline.start()
    status = os.waitpid(child, 0)[1]
    deadline.cancel()
    return os.waitstatus_to_exitcode(status)
"""


def end_of(script: str, *arguments: str) -> tuple[int, str, str]:
    """What becomes of a process that runs this, and tells where it hangs. `ended(child)`: its status, killed if it hangs."""
    command = [sys.executable, "-W", "ignore", "-c", WATCHED + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    return done.returncode, done.stdout, done.stderr


#: Hooks of others, which were there before mempool's, run while a fork holds the mutexes of all pools, and within one of
#: them a signal handler or a collection. What they do is done by the thread that holds them.
HOOKS_OF_OTHERS = """
import os, signal, sys

def hook():
    signal.raise_signal(signal.SIGUSR1)

os.register_at_fork(**{sys.argv[1]: hook})

from mempool import Buffers, Objects, Pool

pool = Pool(Objects(bytearray), 2, limit=2)
handled = 0

def handler(*_signal):
    global handled
    pool.free(pool.alloc())
    with Pool(Buffers(64), 1) as other:
        other.free(other.alloc())
    handled += pool.stats().spare

signal.signal(signal.SIGUSR1, handler)
child = os.fork()
pool.free_many(pool.alloc_many(2, timeout=10))
if child == 0:
    os._exit(handled)
print("handled", handled, ended(child))
"""


@pytest.mark.parametrize(
    ("when", "said"), [("before", "2 2"), ("after_in_parent", "2 0"), ("after_in_child", "0 2")], ids=lambda word: word
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_what_runs_while_a_fork_holds_all_mutexes_may_use_a_pool(when: str, said: str) -> None:
    """A signal handler frees, and a pool is made and closed: in the midst of a fork, by the thread that forks."""
    assert end_of(HOOKS_OF_OTHERS, when)[:2] == (0, f"handled {said}\n")


#: In the child CPython ends what the other threads had to themselves, before it calls anybody's hooks.
LEFT_TO_THE_CHILD = """
import os, threading
from mempool import Buffers, Pool

source = Buffers(4096)
pool = Pool(source, 0, keep=0, limit=2)
own = threading.local()
has, ends = threading.Event(), threading.Event()

def take():
    own.buffer = pool.alloc()
    with getattr(source._memory, "_turn").lock():  # its end in the child, which gives the memory back, finds it taken
        has.set()
        ends.wait()

thread = threading.Thread(target=take)
thread.start()
has.wait()
child = os.fork()
if child == 0:
    pool.write_off_all()
    pool.free_many(pool.alloc_many(2, timeout=10))
    os._exit(pool.stats().out)
status = ended(child)
ends.set()
thread.join()
print(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_buffer_of_another_thread_that_ends_in_a_forked_child_comes_home() -> None:
    """It is freed there before any hook has run, when the mutexes are still held for the fork."""
    assert end_of(LEFT_TO_THE_CHILD)[:2] == (0, "0\n")


class Interrupted:
    """A lock that somebody presses ^C behind: told at the next step at which Python looks for it."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.acquire = functools.partial(list, map(operator.call, (lock.acquire, _thread.interrupt_main)))  # all of it in C
        type(self).__enter__ = staticmethod(self.acquire)  # type: ignore[attr-defined]

    def __exit__(self, *_error: object) -> None:
        self._lock.release()

    release = __exit__


@pytest.mark.skipif(not without_the_gil.BUILT_WITHOUT, reason="with a GIL nobody takes turns")
def test_an_interrupt_where_a_turn_begins_leaves_it_to_others() -> None:
    """Behind the lock, and before what it guards: it would stay locked, and all other threads would wait for ever."""
    source = Buffers(4096)
    turn = source._memory._turn
    lock, turn._lock = turn._lock, Interrupted(turn._lock)
    with pytest.raises(KeyboardInterrupt):
        source.alloc()
    had: list[bool] = []
    other = threading.Thread(target=lambda: had.append(lock.acquire(timeout=1)))
    other.start()
    other.join()
    assert had == [True]


#: A thread that was parked was handed the mutex as the interpreter stopped it for ever: here the mutex's byte says so. It
#: lies before the number that counts how often it was taken; mutex.pxd.
LEFT_LOCKED_AT_THE_END = """
import ctypes, sys
from mempool import Objects, Pool

pool = Pool(Objects(bytearray), 2)
core = pool._engine.core

def numbers():
    return (ctypes.c_uint32 * (core.__sizeof__() // 4)).from_address(id(core))[:]

def counts(before, after):
    return {at for at, (one, other) in enumerate(zip(before, after)) if other == one + 1}

found = []
for _ in range(20):
    before = numbers()
    core.is_closed()
    found.append(counts(before, numbers()))
at, = set.intersection(*found)
byte = ctypes.c_ubyte.from_address(id(core) + 4 * at - 8)

class Ends:
    def __del__(self, is_finalizing=sys.is_finalizing, pool=pool, byte=byte, write=sys.stdout.write):
        assert is_finalizing()
        for _ in range(2):
            byte.value = 1
            pool.free(pool.alloc())
        write("freed")
        sys.stdout.flush()

ends = Ends()
"""


@pytest.mark.skipif(not without_the_gil.IS_OFF, reason="with the GIL there is no mutex")
def test_a_finalizer_at_the_end_waits_for_no_thread_that_was_stopped_for_ever() -> None:
    """Daemon threads may be stopped with a mutex that they were just handed, in the midst of nothing: it is nobody's."""
    code, said, told = end_of(LEFT_LOCKED_AT_THE_END)
    assert (code, said) == (0, "freed"), told


#: A buffer that a child of a fork does not have is freed there, while somebody views it. What lies behind None is CPython's.
BEHIND_NONE = """
import ctypes, os, sys
from mempool import Buffers

source = Buffers(4096, dontfork=True)
buffer = source.alloc()
view = buffer[:]
behind = id(None) + None.__sizeof__()
child = os.fork()
if child == 0:
    status = 2
    try:
        before = ctypes.string_at(behind, 128)
        source.free(buffer)
        status = int(ctypes.string_at(behind, 128) != before)
    finally:
        os._exit(status)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_to_free_what_stayed_with_the_parent_writes_nowhere_else() -> None:
    """It has no next handle, and nothing is written into None in its place."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEHIND_NONE], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
