"""The one background thread: none unless asked, one for all pools, through forks, to the end of the interpreter."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import run

from mempool import Objects, Pool, background, upkeep
from mempool.background import SERVICE, Job
from mempool.pressure import follow
from mempool.testing import wait_until

NAME = "mempool upkeep"


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Neither before nor after a test does a thread live."""
    gc.collect()
    wait_until(lambda: not threads() and not SERVICE.is_running)
    yield
    for job in SERVICE.jobs():
        job.is_over = True
    SERVICE.ring()
    wait_until(lambda: not threads() and not SERVICE.is_running)


class Noted(Job):
    """A job that notes when it ran."""

    def __init__(self, every: float = 0.001) -> None:
        super().__init__()
        self.every = every
        self.runs: list[int] = []
        self.ends = 0

    def _run(self, events: int) -> None:
        self.runs.append(events)
        self.next_at = time.monotonic() + self.every

    def _end(self) -> None:
        self.ends += 1


def test_nothing_runs_unless_it_is_asked_for() -> None:
    """A program that imports all of it and makes pools has its own thread only."""
    said = run("""
        import threading
        from mempool import Objects, Pool, upkeep
        import mempool.pressure
        pools = [Pool(Objects(object), 2) for _ in range(20)]
        upkeep(pools[0], thread=False).look()
        print(threading.active_count(), len(os.listdir("/proc/self/task")))
    """)
    assert said == "1 1\n"


def test_one_thread_looks_after_all_pools(tmp_path: Path) -> None:
    """A hundred of them, and memory pressure besides; it ends with the last."""
    pressures = tmp_path / "memory.pressure"
    pressures.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", "utf-8")
    pools = [Pool(Objects(object), 1) for _ in range(100)]
    kept = [upkeep(pool, every=0.01) for pool in pools]
    followed = [follow(pool, (1, 8), source=pressures) for pool in pools]
    assert len(threads()) == 1
    assert threads()[0].daemon
    for keeper in (*kept, *followed):
        assert len(threads()) == 1
        keeper.close()
    wait_until(lambda: not threads())
    upkeep(pools[0])
    assert len(threads()) == 1


def test_a_closed_pool_and_a_dropped_one_end_the_thread() -> None:
    """Without a `close` of the upkeep's."""
    closed, dropped = (Pool(Objects(object), 1) for _ in range(2))
    reference = weakref.ref(dropped)
    for pool in (closed, dropped):
        upkeep(pool, every=0.01)
    del pool
    closed.close()
    del dropped
    wait_until(lambda: reference() is None)
    wait_until(lambda: not threads())


def test_a_dropped_pool_is_noticed_at_once() -> None:
    """And not at the next look, which may be far away."""
    pool = Pool(Objects(object), 1)
    upkeep(pool, every=3600)
    wait_until(lambda: [job.next_at > time.monotonic() for job in SERVICE.jobs()] == [True])
    del pool
    gc.collect()
    wait_until(lambda: not threads())


def test_a_job_that_raises_waits_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, once a minute."""

    class Broken(Noted):
        def _run(self, events: int) -> None:
            super()._run(events)
            raise ZeroDivisionError

        def __repr__(self) -> str:
            return "a broken job"

    broken, good = Broken(), Noted()
    for job in (broken, good):
        SERVICE.add(job)
    wait_until(lambda: len(good.runs) > 20)
    assert len(broken.runs) == 1
    assert broken.next_at > time.monotonic() + background.AFTER_ERROR / 2
    assert [record.message for record in caplog.records] == ["a broken job has failed, and is tried again in 60 s"]


def test_a_job_is_ended_once_by_the_thread() -> None:
    """What it has open is closed."""
    job = Noted()
    SERVICE.add(job)
    wait_until(lambda: job.runs)
    job.is_over = True
    SERVICE.ring()
    wait_until(lambda: not threads())
    assert job.ends == 1
    assert SERVICE.jobs() == []


def test_a_job_that_is_added_while_the_thread_ends_has_a_thread() -> None:
    """The end of one and the beginning of the next are one step: whatever their order, the job runs."""
    for _ in range(200):
        job = Noted()
        SERVICE.add(job)
        wait_until(lambda job=job: job.runs)
        job.is_over = True
        SERVICE.ring()
        # The one that is just ending. Those before it may not be gone either: they do nothing any more, at their own pace.
        wait_until(lambda: len(threads()) <= 1)


def test_a_descriptor_wakes_the_thread_at_once() -> None:
    """Long before the job's time."""
    reading, writing = os.pipe()
    job = Noted(every=3600)
    job.fd, job.fd_events = reading, background.select.POLLIN
    job._end = lambda: None  # type: ignore[method-assign]
    SERVICE.add(job)
    wait_until(lambda: len(job.runs) == 1)
    os.write(writing, b"x")
    wait_until(lambda: len(job.runs) > 1)
    assert job.runs[1] & background.select.POLLIN
    job.is_over = True
    SERVICE.ring()  # it may have looked just before, and no longer watches the descriptor of what is over
    os.close(writing)
    wait_until(lambda: not threads())
    os.close(reading)


def test_without_poll_it_works_without_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on systems that have none: times and `ring` are all that is needed for upkeep."""
    service = background.Service()
    monkeypatch.setattr(background, "_new_bell", background._QueueBell)
    job, late = Noted(), Noted(every=3600)
    for one in (job, late):
        service.add(one)
    wait_until(lambda: late.runs)  # it was added later, when the other one may have run many times
    seen = len(job.runs)
    wait_until(lambda: len(job.runs) > seen + 10)
    assert len(late.runs) == 1
    job.is_over = late.is_over = True
    service.ring()
    wait_until(lambda: not service.is_running)


def test_an_event_loop_that_is_closed_ends_the_job(caplog: pytest.LogCaptureFixture) -> None:
    """Its `call_soon_threadsafe` raises; nobody looks after the pool any more, and that is said."""
    import asyncio

    loop = asyncio.new_event_loop()
    loop.close()
    pool = Pool(Objects(object), 1, name="loop")
    kept = upkeep(pool, call=loop.call_soon_threadsafe)
    wait_until(lambda: kept.is_over)
    assert "<Upkeep of pool 'loop'> ends: its event loop takes no more calls" in caplog.text


def test_a_slow_job_elsewhere_is_not_begun_twice() -> None:
    """What `call` has not run yet is not called again before a minute."""
    called: list[Any] = []
    pool = Pool(Objects(object), 1)
    kept = upkeep(pool, every=0.001, call=called.append)
    wait_until(lambda: called)
    SERVICE.ring()
    wait_until(lambda: kept.next_at > time.monotonic() + 1)
    assert len(called) == 1
    called[0]()
    wait_until(lambda: len(called) == 2)


# -- forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_in_the_child_of_a_fork_the_thread_begins_anew() -> None:
    """The pool works there, and so does what looks after it; the parent's goes on."""
    pool = Pool(Objects(object), 2, name="forked")
    kept = upkeep(pool, every=0.005)
    engine = pool._engine
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(engine), "_fill", lambda *_arguments, **_options: None)
                pool.resize(reserve=6)
            wait_until(lambda: pool.guarantee().held)
            status = 0 if len(threads()) == 1 and not kept.is_over else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert len(threads()) == 1
    kept.close()


@pytest.mark.long_on_both
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_look_leaves_no_lock_behind() -> None:
    """Forty of them, while the thread looks all the time."""
    pools = [Pool(Objects(object), 2) for _ in range(20)]
    kept = [upkeep(pool, every=0.0001) for pool in pools]
    for _ in range(40):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for one in kept:
                    one.look()
                    one.close()
                wait_until(lambda: not SERVICE.is_running)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
    for one in kept:
        one.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_while_the_thread_is_in_a_source_leaves_the_childs_pool_looked_after() -> None:
    """What the parent's thread was making is made by the child's, which does not wait for the end of that look."""
    is_open, inside = threading.Event(), threading.Event()
    how, parent = ["works"], os.getpid()

    def make() -> object:
        if how[0] == "fails":
            raise MemoryError
        if how[0] == "stands" and os.getpid() == parent:
            inside.set()
            assert is_open.wait(60)
        return object()

    pool = Pool(Objects(make), 2, name="forked")
    how[0] = "fails"
    pool.resize(reserve=6)
    how[0] = "stands"
    kept = upkeep(pool, every=0.01)
    assert inside.wait(20)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            wait_until(lambda: pool.spare == 6 and pool.guarantee().held)
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    how[0] = "works"
    is_open.set()
    assert status == 0
    wait_until(lambda: pool.spare == 6)
    kept.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_listens_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor of the source is another than the parent's, so neither takes the other's events."""
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setenv("MEMORY_PRESSURE_WATCH", str(tmp_path / "fifo"))
    pool = Pool(Objects(object), 2, keep=64)
    followed = follow(pool, (2, 64))
    assert Path(f"/proc/self/fd/{followed.fd}").readlink() == tmp_path / "fifo"
    assert followed.fd is not None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.read(reading, 1)  # until the parent has changed the flags of its own
            wait_until(lambda: followed.is_following and followed.fd is not None)
            status = 3 if os.get_blocking(followed.fd) else 0
        finally:
            os._exit(status)
    os.set_blocking(followed.fd, True)  # the flags belong to the file as it was opened, whichever processes share it
    os.write(writing, b"x")
    assert os.waitpid(child, 0)[1] == 0
    os.set_blocking(followed.fd, False)
    followed.close()


# -- the end of the interpreter


@pytest.mark.long_on_both
@pytest.mark.parametrize("how", ["idle", "busy", "in a look"])
def test_the_interpreter_ends_at_once(how: str) -> None:
    """With the thread asleep, at work, and within a source that does not come back."""
    script = f"""
import threading
from mempool import Objects, Pool, upkeep

inside, how = threading.Event(), ["works"]

def make():
    if how[0] == "fails":
        raise MemoryError
    if how[0] == "hangs":
        inside.set()
        threading.Event().wait()
    return object()

if {how!r} == "idle":
    pool = Pool(Objects(make), 2)
    upkeep(pool)
elif {how!r} == "busy":
    pools = [Pool(Objects(make), 1) for _ in range(50)]
    kept = [upkeep(pool, every=1e-9) for pool in pools]
else:
    pool = Pool(Objects(make), 2)
    how[0] = "fails"
    pool.resize(reserve=4)
    how[0] = "hangs"
    upkeep(pool)
    assert inside.wait(20)
print("ends", flush=True)
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ends\n", "")


def test_after_the_end_has_begun_nothing_is_started() -> None:
    """An upkeep that is asked for by an atexit function is over from the beginning."""
    said = run("""
        import atexit
        from mempool import Objects, Pool, upkeep
        pool = Pool(Objects(object), 2)
        atexit.register(lambda: print(upkeep(pool).is_over))
    """)
    assert said == "True\n"


# -- greenlets


PATCHES = {"gevent": "from gevent import monkey; monkey.patch_all()", "eventlet": "import eventlet; eventlet.monkey_patch()"}

#: Which of their modules the pool looks into.
GREENLET_MODULES = {
    "gevent": ("gevent", "gevent.monkey", "gevent.hub"),
    "eventlet": ("eventlet", "eventlet.patcher", "eventlet.hubs"),
}


def patched(library: str, before: str, after: str) -> str:
    """What a process prints that imports mempool, runs `before`, is patched, and runs `after`."""
    if importlib.util.find_spec(library) is None:  # not imported here: eventlet warns at every fork from then on
        pytest.skip(f"{library} is not installed")
    silent = "import warnings; warnings.simplefilter('ignore')"
    return run("\n".join((silent, textwrap.dedent(before), PATCHES[library], textwrap.dedent(after))))


@pytest.mark.long_on_both
@pytest.mark.parametrize("library", PATCHES)
def test_under_greenlets_it_is_a_thread_of_the_systems(library: str) -> None:
    """Patched, `threading.Thread` is a greenlet, and the hub would stand still in `poll`."""
    after = """
        from mempool import Objects, Pool, upkeep
        from mempool.testing import wait_until
        pool = Pool(Objects(object), 2, keep=32)
        pool.free_many(pool.alloc_many(30))
        kept = upkeep(pool, idle=0.05, every=0.01)
        assert len(os.listdir("/proc/self/task")) > 1
        wait_until(lambda: pool.spare == 2)
        print(pool.spare)
    """
    assert patched(library, "", after) == "2\n"


@pytest.mark.long_on_both
@pytest.mark.sample(2)  # of six: each library, and each lock
@pytest.mark.parametrize("whose", ["SERVICE", "kept", "followed"])
@pytest.mark.parametrize("library", PATCHES)
def test_what_was_made_before_the_patching_goes_on_after_it(library: str, whose: str) -> None:
    """eventlet put a greenlet's lock in the place of ours, and the thread that waited for it hung for good."""
    before = """
        from time import sleep  # sleeps: the thread, not a greenlet
        from mempool import Objects, Pool, upkeep
        from mempool.background import SERVICE
        from mempool.pressure import follow
        from mempool.testing import wait_until
        pool = Pool(Objects(object), 2, keep=32)
        kept = upkeep(pool, idle=0.05, every=0.01)
        followed = follow(pool, keep=(2, 32), source=lambda: 0.0)
    """
    after = f"""
        pool.free_many(pool.alloc_many(30))
        with {whose}._lock:
            sleep(0.1)  # sleeps: the thread comes by meanwhile, and no state tells that it waits
        wait_until(lambda: pool.spare == 2)
        print(pool.spare)
    """
    assert patched(library, before, after) == "2\n"


@pytest.mark.sample(2)  # of six: each library, and each thread
@pytest.mark.parametrize("thread", ["upkeep, its last job over", "upkeep, the interpreter ends", "watch"])
@pytest.mark.parametrize("library", PATCHES)
def test_a_thread_that_began_before_the_patching_ends_without_a_word(library: str, thread: str) -> None:
    """`threading`, which knew it no more, said so on stderr; at the interpreter's end that aborted the process at times."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    script = f"""
        import threading, warnings
        warnings.simplefilter("ignore")
        from mempool import Objects, Pool, upkeep, watch
        from mempool.background import SERVICE
        from mempool.testing import wait_until
        pool = Pool(Objects(object), 2)
        if {thread!r} == "watch":
            watch.publish(steer=True)
        else:
            kept = upkeep(pool)
        {PATCHES[library]}
        if {thread!r} == "upkeep, its last job over":
            kept.close()
            wait_until(lambda: not SERVICE.is_running and threading.active_count() == 1)
            print("over")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        environment = os.environ | {"MEMPOOL_WATCH_DIR": folder}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    said = [line for line in ended.stderr.splitlines() if line and "were not greened" not in line]  # eventlet, of any RLock
    assert (ended.returncode, said) == (0, [])
    assert ended.stdout == ("over\n" if "over" in thread else "")


@pytest.mark.parametrize("library", PATCHES)
def test_a_watched_process_that_was_patched_before_is_watched_no_more(library: str) -> None:
    """mempool was imported before that. The end of what is published waits until its thread has ended, and knows it."""
    after = """
        from mempool import watch
        from mempool.watch import publishing
        watch.publish(steer=True)
        server = publishing._published.server
        watch.unpublish()
        print(server._alive.locked())
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMPOOL_WATCH_DIR", folder)
        assert patched(library, "import mempool", after) == "False\n"


@pytest.mark.parametrize("library", PATCHES)
def test_a_pool_made_before_the_patching_serves_threads_of_the_systems_after_it(library: str) -> None:
    """Uncompiled, a pool decides under a lock, at which such threads and greenlets meet."""
    before = """
        from mempool import Objects, Pool, native
        pool = Pool(Objects(object), 2)
        done = []
        def work():
            for _ in range(2000):
                pool.free(pool.alloc())
            done.append(1)
    """
    after = """
        from mempool.testing import wait_until
        for _ in range(2):
            native.start_new_thread(work, ())
        work()
        wait_until(lambda: len(done) == 3)
        print(pool.out)
    """
    assert patched(library, before, after) == "0\n"


@pytest.mark.parametrize("library", PATCHES)
def test_while_another_thread_imports_greenlets_those_who_wait_go_on(library: str) -> None:
    """The modules are there then, and not yet what is in them: the thread of upkeep ended with AttributeError."""
    said = run(f"""
        import threading, types
        from mempool import Objects, Pool, upkeep
        from mempool.testing import wait_until
        for name in {GREENLET_MODULES[library]}:
            sys.modules[name] = types.ModuleType(name)
        pool = Pool(Objects(object), 2, keep=32, limit=32)
        kept = upkeep(pool, idle=0.05, every=0.01)
        held = pool.alloc_many(32)
        waiting = threading.Thread(target=lambda: pool.free(pool.alloc()))
        waiting.start()
        wait_until(lambda: pool.waiting == 1)
        pool.free_many(held)
        waiting.join()
        wait_until(lambda: pool.spare == 2)
        print(pool.spare)
    """)
    assert said == "2\n"


def test_steps_are_logged_by_the_librarys_own_logger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`logging.getLogger("mempool")`, from the thread."""
    pressures = tmp_path / "memory.pressure"
    pressures.write_text("some avg10=55.00 avg60=0.00 avg300=0.00 total=0\n", "utf-8")
    pool = Pool(Objects(object), 2, keep=64, name="frames")
    with caplog.at_level(logging.INFO, "mempool"), follow(pool, (2, 64), source=pressures) as followed:
        wait_until(lambda: followed.log)
        wait_until(lambda: caplog.messages)
    assert caplog.messages[0].startswith("pool 'frames': some avg10 = 55.0 %: keep 64 -> 32")


def test_it_sleeps_for_the_seconds_that_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """`poll` wants milliseconds. With fewer the thread would do all that is due, as ever, and wake a thousand times."""
    asked: list[float | None] = []

    class Poll:
        def register(self, _descriptor: int, _events: int) -> None: ...

        def poll(self, milliseconds: float | None) -> list[tuple[int, int]]:
            asked.append(milliseconds)
            return []

    monkeypatch.setattr(background.native, "poll", Poll)
    bell = background._Bell()
    for seconds in (2.5, 1e9, background.NEVER):
        bell.wait({}, seconds)
    bell.close()
    assert asked == [2501, 86_400_001, None]
