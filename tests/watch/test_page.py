"""The page on which a process shows its pools: what it says and costs, and that it outlives no owner and misleads nobody."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from programs import Program
from sweeps import LONG

from mempool import IMPLEMENTATION, Buffers, Faulty, Objects, Pool, PoolTimeout, watch
from mempool.cli.app import mempool as command
from mempool.engine import WAIT_BUCKETS
from mempool.stats import Guarantee, PoolStats
from mempool.testing import wait_until
from mempool.watch import layout, page, publishing, words
from mempool.watch.directory import WatchError, open_directory
from mempool.watch.reader import SUFFIX
from mempool.watch.sources import Here


def only_pool(pid: int | None = None) -> watch.PoolView:
    """The one pool that is shown, of this process if nothing else is said."""
    (pool,) = [pool for process in watch.processes() if process.pid == (pid or os.getpid()) for pool in process.pools]
    return pool


def entries(directory: str) -> set[str]:
    return {entry.name for entry in Path(directory).iterdir()}


def open_files() -> Counter[str]:
    """Of this process. What an earlier test has had open may just be closed, by a thread that ends."""
    found: Counter[str] = Counter()
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the directory itself, which is read by now
            found[str(entry.readlink())] += 1
    return found


def pids() -> list[int]:
    return [process.pid for process in watch.processes()]


# -- what it says


def lively_pool() -> Pool[Any]:
    """A pool of which hardly a figure is 0."""
    source = Faulty(Buffers("4 KiB"))
    pool: Pool[Any] = Pool(source, 4, keep=5, limit=9, name="lively")
    held = [pool.alloc() for _ in range(9)]
    with pytest.raises(PoolTimeout):
        pool.alloc(timeout=0)
    pool.free_many(held)
    source.fail_next(1)
    pool.resize(reserve=8)
    return pool


def test_every_field_of_the_statistics_is_on_the_page(folder: Path) -> None:
    """And of the guarantee: a page's reader sees what `stats()` and `guarantee()` say."""
    pool = lively_pool()
    watch.publish()
    view = only_pool()
    assert view.stats() == pool.stats()
    assert view.guarantee() == pool.guarantee()
    assert pool.guarantee().unfunded > 0
    assert pool.stats().source_failures > 0
    assert {field.name for field in dataclasses.fields(PoolStats)} >= {"source_failures", "wait_histogram"}
    assert {field.name for field in dataclasses.fields(Guarantee)} >= {"level", "filling"}
    assert view.element_bytes == 4096


def test_each_call_shows_on_the_page_at_once(folder: Path) -> None:
    """Quick or slow, it needs no second call, no thread and no time."""
    watch.publish()
    pool = Pool(Objects(object), 2, keep=3, name="quick")
    held = []
    for _ in range(5):
        held.append(pool.alloc())
        assert only_pool().stats() == pool.stats()
    while held:
        pool.free(held.pop())
        assert only_pool().stats() == pool.stats()
    pool.resize(reserve=1)
    assert only_pool().stats() == pool.stats()
    with pool.lease():
        assert only_pool().stats() == pool.stats()
    pool.close()
    assert only_pool().stats() == pool.stats()
    assert only_pool().stats().closed


def test_each_decision_has_a_sequence_number_of_its_own(folder: Path) -> None:
    """Even, and never one that was there before: what a reader finds between two equal ones is of one moment."""
    pool = Pool(Objects(object), 1)
    watch.publish()
    [page] = folder.glob(f"*{SUFFIX}")
    numbers = []
    for reserve in (2, 3, 4):
        pool.resize(reserve=reserve)
        numbers.append(layout.sequence(page.read_bytes(), 0))
    assert [number % 2 for number in numbers] == [0, 0, 0]
    assert 0 < numbers[0] < numbers[1] < numbers[2]


def test_what_the_source_said_is_on_the_page(folder: Path) -> None:
    """So that a process that hangs can still be asked why."""
    watch.publish()
    source = Faulty(Objects(object))
    pool = Pool(source, 1, name="failing")
    source.fail_next(1)
    pool.resize(reserve=3)
    (process,) = watch.processes()
    (figures,) = process._page.pools
    assert figures.said is not None
    assert figures.said.startswith("MemoryError")


def test_a_pool_made_later_is_shown_and_one_that_is_gone_is_not(folder: Path) -> None:
    watch.publish()
    pools = [Pool(Objects(object), 1, name=f"pool {number}") for number in range(3)]
    assert [pool.name for process in watch.processes() for pool in process.pools] == ["pool 0", "pool 1", "pool 2"]
    del pools[1]
    gc.collect()
    assert [pool.name for process in watch.processes() for pool in process.pools] == ["pool 0", "pool 2"]
    pools.append(Pool(Objects(object), 1, name="new"))
    shown = [(pool.name, pool.number) for process in watch.processes() for pool in process.pools]
    assert shown == [("pool 0", 1), ("new", 4), ("pool 2", 3)]  # in the slot that was free, with a number of its own


def test_more_pools_than_a_page_has_slots_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And go on: to be shown is no condition of working."""
    watch.publish()
    pools = [Pool(Objects(object), 1, name=f"{number}") for number in range(layout.SLOTS + 2)]
    (process,) = watch.processes()
    assert len(process.pools) == layout.SLOTS
    assert process._page.header is not None
    assert process._page.header.without_slot == 2
    assert pools[-1].alloc() is not None
    assert caplog.text.count("is not seen from outside: the page of a process has room for 100") == 2


def left_out() -> tuple[int, list[str]]:
    """How many pools are on no page, and the rows that `ls` and `top` show of that."""
    rows = Here().rows()
    (header,) = [process._page.header for process in watch.processes()]
    assert header is not None
    return header.without_slot, [row.why for row in rows if row.figures is None]


def test_pools_that_a_page_has_no_room_for_are_a_row_and_are_shown_once_there_is(folder: Path) -> None:
    """The number is that of those that live; who dies is not counted, and who is next gets the slot that is free."""
    watch.publish()
    pools = [Pool(Objects(object), 1, name=f"{number}") for number in range(layout.SLOTS + 2)]
    assert left_out() == (2, ["2 more pools not shown: its page has room for 100"])
    lines = CliRunner().invoke(command, ["ls"]).output.splitlines()
    assert any(line.startswith("... ") and "2 more pools not shown" in line for line in lines)
    assert len(lines) == 1 + layout.SLOTS + 1
    del pools[layout.SLOTS]
    gc.collect()
    assert left_out() == (1, ["1 more pool not shown: its page has room for 100"])
    del pools[:2]
    gc.collect()
    pools.append(Pool(Objects(object), 1, name="new"))
    assert left_out() == (0, [])
    shown = {pool.name for process in watch.processes() for pool in process.pools}
    assert {"new", str(layout.SLOTS + 1)} <= shown


def test_a_name_of_many_letters_is_cut_between_two(folder: Path) -> None:
    watch.publish()
    pool = Pool(Objects(object), 1, name="ä" * 200)
    assert only_pool().name == "ä" * (layout.NAME_BYTES // 2)
    assert pool.name == "ä" * 200


def test_the_buckets_of_waits_tell_two_pools_in_trouble_apart() -> None:
    """1, 2, 5 of each decade from 10 µs to 100 s."""
    assert WAIT_BUCKETS[:4] == (0.00001, 0.00002, 0.00005, 0.0001)
    assert WAIT_BUCKETS[-4:] == (10.0, 20.0, 50.0, 100.0)
    assert len(WAIT_BUCKETS) == 22
    assert layout.BUCKETS == WAIT_BUCKETS


# -- what it costs


def test_publishing_starts_no_thread_and_keeps_one_file_open(folder: Path) -> None:
    before, threads = open_files(), entries("/proc/self/task")
    watch.publish()
    pool = Pool(Objects(object), 1)
    if IMPLEMENTATION == "compiled":  # uncompiled, a mapping has a descriptor of its own
        (page,) = (open_files() - before).elements()
        assert page.startswith(f"{folder}/")
    assert entries("/proc/self/task") <= threads  # one of an earlier test may just end
    watch.unpublish()
    assert open_files() - before == Counter()
    assert list(folder.iterdir()) == []
    pool.free(pool.alloc())


def test_a_fork_of_a_published_process_warns_of_nothing(folder: Path) -> None:
    """Python 3.12 warns of a fork where there are threads."""
    body = """
    mempool.watch.publish()
    pool = Pool(Objects(object), 1)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    ready()
    """
    with Program(body, "-W", "error") as program:
        assert program.end() == ""


# -- forks

FORKS = {
    "os.fork": """
pid = os.fork()
if pid == 0:
    child()
    os._exit(0)
os.waitpid(pid, 0)
""",
    "libc's fork": """
import ctypes
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    child()
    os._exit(0)
os.waitpid(pid, 0)
""",
    "multiprocessing fork": """
import multiprocessing
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
""",
}


@pytest.mark.long_on_both
@pytest.mark.parametrize("how", FORKS)
def test_whatever_a_forked_child_does_the_parents_figures_are_the_parents(how: str, folder: Path) -> None:
    body = f"""
mempool.watch.publish()
pool = Pool(Objects(object), 4, keep=40, name="parent's")
held = [pool.alloc() for _ in range(2)]

def child():
    mine = [pool.alloc() for _ in range(30)]
    for element in mine:
        pool.free(element)
    mine = [pool.alloc() for _ in range(9)]
    pool.resize(reserve=20)

{FORKS[how]}
stats = pool.stats()
assert stats.out == 2, stats
ready(stats.spare, stats.out, stats.made)
"""
    program = Program(body)
    try:
        spare, out, made = map(int, program.wait_ready())
        view = only_pool(program.pid).stats()
        assert (view.spare, view.out, view.made, view.reserve) == (spare, out, made, 4)
        assert (out, made) == (2, spare + 2)
        program.end()
    finally:
        program.__exit__(None, None, None)


def test_under_a_forkserver_each_process_has_a_page_of_its_own(folder: Path) -> None:
    body = """
    import multiprocessing
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mempool"])
    process = context.Process(target=time.sleep, args=(0,))
    process.start()
    process.join()
    mempool.watch.publish()
    pool = Pool(Objects(object), 2, name="parent's")
    ready(*[entry for entry in os.listdir(os.environ["MEMPOOL_WATCH_DIR"])])
    """
    with Program(body) as program:
        assert only_pool(program.pid).stats().reserve == 2
        assert pids() == [program.pid]


def test_a_forked_child_shows_its_own_figures(folder: Path) -> None:
    body = """
    mempool.watch.publish()
    pool = Pool(Objects(object), 4, keep=9, name="both")
    held = [pool.alloc() for _ in range(2)]
    pid = os.fork()
    if pid == 0:
        mine = pool.alloc()
        ready()
        os._exit(0)
    os.waitpid(pid, 0)
    """
    with Program(body) as program:
        (child,) = [process for process in watch.processes() if process.pid != program.pid]
        assert child.pools[0].stats().out == 3
        assert only_pool(program.pid).stats().out == 2


# -- who lives


def test_who_is_killed_is_gone_within_ten_milliseconds(folder: Path) -> None:
    """Though he is a zombie still, and his file is there."""
    program = Program("mempool.watch.publish()\npool = Pool(Objects(object), 1)\nready()")
    try:
        program.wait_ready()
        assert pids() == [program.pid]
        os.kill(program.pid, signal.SIGKILL)
        os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has taken note of it
        began = time.perf_counter()
        while pids():
            assert time.perf_counter() - began < 0.010 * SLACK
        assert len(list(folder.glob("*.page"))) == 1
    finally:
        program.__exit__(None, None, None)


#: A machine that does other things as well.
SLACK = 20


def by_ctypes() -> Any:
    uncompiled = pytest.mark.skipif(IMPLEMENTATION == "pure", reason="uncompiled, nobody tells the child of such a fork")
    return pytest.param("ctypes.PyDLL(None).fork()", marks=uncompiled)


@pytest.mark.parametrize("fork", ["os.fork()", by_ctypes()])
def test_a_forked_child_does_not_keep_its_dead_parent_alive(fork: str, folder: Path) -> None:
    """The lock belongs to the open file, which a child inherits: it lets go of it."""
    body = f"""
    import ctypes
    mempool.watch.publish()
    pool = Pool(Objects(object), 1)
    reading, writing = os.pipe()
    pid = {fork}
    if pid == 0:
        os.write(writing, b"x")
        signal.pause()
    os.read(reading, 1)
    ready(pid)
    """
    program = Program(body)
    child = 0
    try:
        (child,) = map(int, program.wait_ready())
        assert program.pid in pids()
        os.kill(program.pid, signal.SIGKILL)
        wait_until(lambda: program.pid not in pids())
        os.kill(child, 0)  # which lives
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
        program.__exit__(None, None, None)


def test_a_process_of_another_pid_namespace_lives(folder: Path) -> None:
    """Its pid says nothing here: only its lock does."""
    inner = "import mempool, mempool.watch, sys, os\nmempool.watch.publish()\np = mempool.Pool(mempool.Objects(object), 1)\n"
    inner += "print('ready', os.getpid(), flush=True)\nsys.stdin.readline()"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", inner]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said:
            pytest.skip(f"no pid namespace can be made here: {process.communicate()[1]}")
        assert pids() == [int(said.split()[1])]
        process.communicate("\n", timeout=30)
        assert pids() == []
    finally:
        process.kill()
        process.wait()


@pytest.mark.long_on_both
def test_who_publishes_sweeps_the_pages_of_the_dead_and_nothing_else(folder: Path) -> None:
    program = Program("mempool.watch.publish()\npool = Pool(Objects(object), 1)\nready()")
    program.wait_ready()
    with Program("mempool.watch.publish()\npool = Pool(Objects(object), 1)\nready()") as living:
        program.__exit__(None, None, None)  # killed
        (folder / "notes.txt").write_text("somebody's")
        (folder / "1-1-1.page").symlink_to("notes.txt")
        watch.publish()
        there = {path.name.partition("-")[0] for path in folder.iterdir()}
        assert there == {str(living.pid), str(os.getpid()), "notes.txt", "1"}


def test_the_page_goes_with_a_process_that_ends_well(folder: Path) -> None:
    with Program("mempool.watch.publish()\npool = Pool(Objects(object), 1)\nready()") as program:
        program.end()
        assert list(folder.iterdir()) == []


# -- where it lies


def test_a_directory_that_others_can_enter_is_refused_with_the_way_out(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    folder.chmod(0o755)
    with pytest.raises(WatchError, match=r"has mode 0755.*chmod 0700"):
        watch.publish()
    folder.chmod(0o700)
    assert stat.S_IMODE(Path(watch.publish()).stat().st_mode) == 0o600


def test_a_directory_on_a_disk_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr("mempool.watch.directory.file_system", lambda _device: "ext4")
    with pytest.raises(WatchError, match=r"lies on ext4.*set MEMPOOL_WATCH_DIR"):
        watch.publish(directory=str(tmp_path))


def test_a_link_to_a_directory_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    link = folder / "link"
    link.symlink_to(folder)
    with pytest.raises(WatchError, match="is no directory"):
        watch.publish(directory=str(link))


def test_a_file_in_the_place_of_the_directory_is_refused_unopened(tmp_path: Path) -> None:
    """The kernel refuses it: a FIFO would wait for a writer."""
    file = tmp_path / "pages"
    file.touch(0o700)
    with pytest.raises(WatchError, match="is no directory") as refused:
        open_directory(str(file))
    assert refused.value.errno == errno.ENOTDIR


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_page_that_is_another_by_now_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, folder: Path, order: tuple[int, int]
) -> None:
    """Whoever sweeps has looked at the one before."""
    directory = open_directory(str(folder), create=True)
    files = [folder / name for name in ("one", "other")]
    for file in files:
        file.touch()
    before, after = (files[n] for n in order)
    name = folder / f"42-1{SUFFIX}"
    name.hardlink_to(before)

    def replace(_fd: int) -> bool:
        name.unlink()
        name.hardlink_to(after)
        return False

    monkeypatch.setattr(page, "is_locked", replace)
    assert not page.unlink_if_dead(directory, name.name)
    assert name.samefile(after)
    monkeypatch.setattr(page, "is_locked", lambda _fd: False)
    assert page.unlink_if_dead(directory, name.name)
    assert not name.exists()
    os.close(directory)


def test_what_cannot_be_mirrored_is_not_shown(folder: Path) -> None:
    """Nor anything at all while nothing is published."""
    pool = Pool(Objects(object), 1)
    publishing._show(pool._engine)
    watch.publish()
    publishing._show(SimpleNamespace(name="of another kind"))
    assert only_pool().name == pool.name


def test_another_users_directory_is_refused(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(folder, 12345, -1)
    with pytest.raises(WatchError, match="belongs to user 12345"):
        watch.publish()
    os.chown(folder, 0, -1)


def test_by_the_environment_an_unfit_directory_is_warned_of_once_and_the_program_goes_on(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    folder.chmod(0o750)
    body = "pools = [Pool(Objects(object), 1) for _ in range(3)]\nprint('works', pools[2].alloc() is not None)\nready()"
    command = "import os\n" + body.replace("ready()", "")
    ended = subprocess.run(
        [sys.executable, "-c", "from mempool import Objects, Pool\n" + command],
        env={**os.environ, "MEMPOOL_WATCH": "numbers"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout == "works True\n"
    assert ended.stderr.count("has mode 0750") == 1


def test_the_environment_publishes_at_the_first_pool(folder: Path) -> None:
    with Program("pool = Pool(Objects(object), 3, name='mine')\nready()", env={"MEMPOOL_WATCH": "numbers"}) as program:
        assert only_pool(program.pid).stats().reserve == 3
        assert not next(watch.processes()).takes_commands


def test_an_unknown_wish_in_the_environment_is_warned_of() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import mempool"],
        env={**os.environ, "MEMPOOL_WATCH": "everything"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "'everything'" in ended.stderr


# -- a storm


STORM = """
mempool.watch.publish()
pool = Pool(Objects(object), 1, keep=8, limit=24, name="storm")
HELD = 3
def work(number):
    for turn in range(1 << 60):
        held = [element for _ in range(HELD) if (element := pool.try_alloc()) is not None]
        if number == 0:
            pool.resize(keep=1 + turn % 5)  # makes nothing, and so has nothing in a transfer
        for element in held:
            pool.free(element)
sys.setswitchinterval(1e-5)
for number in range(4):
    threading.Thread(target=work, args=(number,), daemon=True).start()
ready()
"""


@pytest.mark.long_on_both
@pytest.mark.parametrize(
    "wanted", [pytest.param(20_000 if LONG else 2_000, id="some"), pytest.param(1_000_000, marks=pytest.mark.stress)]
)
def test_every_snapshot_that_is_steady_adds_up(folder: Path, wanted: int) -> None:
    """`made - disposed == spare + out + disposing`, read while threads alloc, free and resize.

    What is out is the difference: so the proof is that it lies between nothing and what four threads can hold. And what was
    made is what callers got of the source, and one: a reader that believes half a step finds them to differ.
    """
    with Program(STORM) as program:
        reader = watch.outside.Reader()
        (path,) = [page.path for page in reader.pages()]
        fd = os.open(path, os.O_RDONLY)
        steady = 0
        last = (0, 0)
        try:
            for _ in range(wanted):
                (figures,) = watch.reader.read(fd, path).pools
                steady += figures.stable
                if figures.stable:
                    assert 0 <= figures.out <= 4 * 3, figures
                    assert 0 <= figures.spare <= 24, figures
                    assert figures.made - figures.disposed <= 24, figures
                    assert (figures.made, figures.disposed) >= last
                    # Two words of one step: nothing but the constructor makes elements that no caller asked for.
                    assert figures.made - figures.from_source == 1, figures
                    last = (figures.made, figures.disposed)
        finally:
            os.close(fd)
        assert program.process.poll() is None
    assert steady > wanted // 2


def test_nothing_is_written_beyond_the_page(folder: Path) -> None:
    """Nor before it; its last bytes can be written."""
    watch.publish()
    mapping = Pool(Objects(object), 1, name="edge")._engine.core.slot().mapping
    end = layout.PAGE_BYTES
    mapping.store(end - 8, bytes(8))
    for at, length in ((end - 7, 8), (end // 2, end // 2 + 1), (end - 8, end - 8), (-1, 1), (end, 1)):
        with pytest.raises(IndexError, match="outside of the page"):
            mapping.store(at, bytes(length))


def test_a_slot_whose_writer_stopped_in_the_middle_of_a_step_is_told_as_such(folder: Path) -> None:
    watch.publish()
    pool = Pool(Objects(object), 2, name="half")
    slot = pool._engine.core.slot()
    slot.mapping.store(slot.at, (7).to_bytes(8, "little"))
    (process,) = watch.processes()
    (figures,) = process._page.pools
    assert not figures.stable
    assert "in the middle" in words.state_of(figures)[1]
    pool.free(pool.alloc())
    pool.resize(reserve=3)  # the next step makes it whole
    (process,) = watch.processes()
    assert process._page.pools[0].stable


def test_a_pool_that_dies_in_another_thread_frees_its_slot(folder: Path) -> None:
    watch.publish()
    box = [Pool(Objects(object), 1, name="short")]
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert [pool for process in watch.processes() for pool in process.pools] == []


def test_publish_again_is_the_same_page(folder: Path) -> None:
    assert watch.publish() == watch.publish()
    first = watch.publish()
    watch.unpublish()
    assert watch.publish() != first
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.unpublish()
        watch.unpublish()
