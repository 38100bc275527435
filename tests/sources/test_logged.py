"""Logged: what is asked of a source, line by line, complete at every moment; and the same asked again."""

from __future__ import annotations

import csv
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from broken_sources import Stubborn

from mempool import Buffers, Objects, Pool
from mempool.sources import Limited, Logged, Replay, replay
from mempool.testing import Element, ScriptedSource, SourceBroken, Step

works, fails, raises, _ = Step


class Sized:
    """A source that knows the size of its elements."""

    size = 64

    def alloc(self) -> object:
        return object()

    def free(self, element: object) -> None:
        pass


def rows_of(log: Path) -> list[list[str]]:
    rows = list(csv.reader(log.read_text().splitlines()))
    assert rows[0] == ["time", "thread", "action", "element", "size"]
    return rows[1:]


def test_each_call_is_a_line(tmp_path: Path) -> None:
    """With the time, the thread, what was done, to which element, and of which size."""
    log = tmp_path / "log.csv"
    under = ScriptedSource[Any](works, fails, works, raises, source=Objects(lambda: bytearray(10)))
    source = Logged(under, to=log)
    first = source.alloc()
    with pytest.raises(MemoryError):
        source.alloc()
    second = source.alloc()
    with pytest.raises(SourceBroken):
        source.alloc()
    source.free(first)
    source.free(second)
    rows = rows_of(log)
    assert [row[2:] for row in rows] == [
        ["alloc", "1", "10"],
        ["fail", "", ""],
        ["alloc", "2", "10"],
        ["error", "", ""],
        ["free", "1", "10"],
        ["free", "2", "10"],
    ]
    assert {row[1] for row in rows} == {str(threading.get_ident())}
    times = [float(row[0]) for row in rows]
    assert times == sorted(times)
    assert source.lines_lost == 0


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    """One header, whoever opens it."""
    log = tmp_path / "log.csv"
    for _ in range(2):
        source = Logged(Objects(object), to=log)
        source.free(source.alloc())
        source.close()
    assert [row[2:] for row in rows_of(log)] == [["alloc", "1", ""], ["free", "1", ""]] * 2


def test_a_line_that_cannot_be_written_disturbs_nobody(tmp_path: Path) -> None:
    """It is counted."""
    source = Logged(Sized(), to=tmp_path / "log.csv")
    source.close()
    source.free(source.alloc())
    assert source.lines_lost == 2
    with (tmp_path / "other.csv").open("w") as file:
        lent = Logged(Sized(), to=file)
        lent.alloc()
    lent.alloc()
    assert lent.lines_lost == 1
    assert [row[2:] for row in rows_of(tmp_path / "other.csv")] == [["alloc", "1", "64"]]


def test_a_file_that_was_closed_is_not_taken_for_another(tmp_path: Path) -> None:
    """Its number may be another file's by now."""
    with (tmp_path / "log.csv").open("w") as file:
        source = Logged(Sized(), to=file)
        number = file.fileno()
    with (tmp_path / "other").open("w") as other:
        assert other.fileno() == number
        source.alloc()
    assert (tmp_path / "other").read_text() == ""
    assert source.lines_lost == 1


def test_a_buffer_that_is_still_viewed_is_freed_twice_in_the_log(tmp_path: Path) -> None:
    """Both times under its number, though only the second time is the last."""
    source = Logged(Buffers(100, level="virtual"), to=tmp_path / "log.csv")
    buffer = source.alloc()
    with buffer[:], pytest.raises(BufferError):
        source.free(buffer)
    source.free(buffer)
    assert [row[2:] for row in rows_of(tmp_path / "log.csv")] == [
        ["alloc", "1", "100"],
        ["free", "1", "100"],
        ["free", "1", "100"],
    ]
    assert replay(tmp_path / "log.csv", Limited(Objects(object), elements_max=1)).left == 0


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    """And each element is freed after it was made, in the log as in life."""
    source = Logged(Objects(object), to=tmp_path / "log.csv")

    def work() -> None:
        for _ in range(300):
            source.free(source.alloc())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    out: set[str] = set()
    for _time, _thread, action, number, _size in rows_of(tmp_path / "log.csv"):
        if action == "alloc":
            assert number not in out
            out.add(number)
        else:
            out.remove(number)
    assert out == set()
    assert len(rows_of(tmp_path / "log.csv")) == 2400


def test_a_log_is_played_again(tmp_path: Path) -> None:
    """On another source: the same calls in the same order, and in the end all are back."""
    log = tmp_path / "log.csv"
    source = Logged(Limited(Objects(object), elements_max=3), to=log)
    elements = [source.alloc() for _ in range(3)]
    with pytest.raises(MemoryError):
        source.alloc()
    source.free(elements.pop(1))
    elements.append(source.alloc())
    source.free(elements.pop())

    same = replay(log, narrow := Limited(Objects(object), elements_max=3))
    assert (same.allocs, same.frees, same.failures, same.left) == (4, 2, 1, 2)
    assert narrow.existing == 0
    wide = replay(log, plenty := ScriptedSource[Element]())
    assert (wide.allocs, wide.failures, wide.left) == (5, 0, 2)
    assert plenty.log == ["alloc works"] * 4 + ["free works"] * 2 + ["alloc works", "free works"] + ["free works"] * 2
    tight = replay(log.read_text().splitlines(), Limited(Objects(object), elements_max=1))
    assert isinstance(tight, Replay)
    assert (tight.allocs, tight.frees, tight.failures, tight.left) == (1, 0, 4, 1)
    assert tight.seconds > 0


def test_a_log_is_played_on_a_pool(tmp_path: Path) -> None:
    """To see what its reserve would have done."""
    log = tmp_path / "log.csv"
    with Pool(Logged(Objects(object), to=log), 4) as pool:
        for element in pool.alloc_many(4):
            pool.free(element)
    with Pool(Objects(object), 1) as pool:
        played = replay(log, pool)
        assert played.allocs == played.frees == len(rows_of(log)) // 2 >= 4
        assert pool.stats().out == 0


@pytest.mark.parametrize(
    "text", ["", "a,b\n", "time,thread,action,element,size\n1.0,1,borrow,1,1\n", "time,thread,action,element,size\n1.0\n"]
)
def test_what_is_no_log_is_refused(text: str) -> None:
    """With the line; and what was had until then is given back."""
    source = ScriptedSource[Element]()
    with pytest.raises(ValueError, match=r"no log of Logged|none of Logged's"):
        replay(text.splitlines(), source)
    assert source.existing == []


def test_what_the_wrapped_source_says_is_said_once() -> None:
    class Sour(ScriptedSource):
        def free(self, element: Any, /) -> None:
            super().free(element)
            raise MemoryError("sour")

    inner = Sour()
    limited = Limited(inner, elements_max=1)
    element = limited.alloc()
    with pytest.raises(MemoryError, match="sour"):
        limited.free(element)
    assert (inner.free_calls, limited.existing) == (1, 0)


def test_a_log_of_several_processes_is_replayed_and_nothing_left(tmp_path: Path) -> None:
    """Each counts from 1; the first two ended while elements were out."""
    for _ in range(3):
        logged = Logged(Objects(bytearray), to=tmp_path / "log.csv")
        logged.alloc(), logged.alloc()
        logged.close()
    limited = Limited(Objects(bytearray), elements_max=2)
    done = replay(tmp_path / "log.csv", limited)
    assert (done.allocs, done.frees, done.failures, done.left) == (6, 0, 0, 6)
    assert limited.existing == 0


def test_a_replay_gives_all_back_though_the_source_raises() -> None:
    source = Stubborn()
    lines = ["time,thread,action,element,size", *(f"0,0,alloc,{number}," for number in range(9))]
    with pytest.raises(RuntimeError, match=r"the one after 1$"):
        replay(lines, source)
    assert (source.disposed, len(source.existing)) == (9, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_line_of_which_a_part_was_written_is_lost_and_told_from_the_next(tmp_path: Path) -> None:
    import resource

    file = tmp_path / "log.csv"
    logged = Logged(Objects(bytearray), to=file)
    first = logged.alloc()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 7, hard))
        logged.free(first)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    logged.free(logged.alloc())
    assert logged.lines_lost == 1
    assert [line[-1] == "?" for line in file.read_text().splitlines()] == [False, False, True, False, False]
    done = replay(file, Objects(bytearray))
    assert (done.allocs, done.frees, done.left) == (2, 1, 1)


def test_a_torn_line_at_the_end_is_passed_over_and_the_next_process_begins_another(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    logged = Logged(Objects(bytearray), to=file)
    logged.free(logged.alloc())
    logged.close()
    with file.open("a") as end:
        end.write("1795410005.285637,13")
    done = replay(file, Objects(bytearray))
    assert (done.allocs, done.frees) == (1, 1)
    with file.open("a") as lent:
        for to in (file, lent):  # the second is not readable: nobody knows, and nothing is wrong by now
            logged = Logged(Objects(bytearray), to=to)
            logged.free(logged.alloc())
            logged.close()
    done = replay(file, Objects(bytearray))
    assert (done.allocs, done.frees, done.left) == (3, 3, 0)
