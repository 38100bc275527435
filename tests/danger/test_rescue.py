"""A ballast for error paths: thrown off before a MemoryError is handled, and there again afterwards."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest
from children import run

import mempool
from mempool.sources import Memory

if not sys.platform.startswith("linux"):
    pytest.skip("memory is verified, and a limit on it enforced, on Linux only", allow_module_level=True)


def test_the_ballast_is_free_before_the_handler_runs() -> None:
    """In the handler around the block, `used` says so and there is none any more."""
    seen = []
    try:
        with mempool.rescue("1 MiB") as r:
            assert r.ready
            raise MemoryError
    except MemoryError:
        seen.append((r.used, r.ready))
    assert seen == [(1, False)]


def test_it_is_there_again_when_it_is_entered_next() -> None:
    """One for the whole process."""
    r = mempool.rescue("1 MiB")
    was_ready = []

    def fail() -> None:
        with r:
            was_ready.append(r.ready)
            raise MemoryError

    for turn in range(1, 4):
        with pytest.raises(MemoryError):
            fail()
        assert (r.used, r.ready) == (turn, False)
    assert was_ready == [True] * 3
    with r:
        pass
    assert (r.used, r.ready) == (3, True)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, asyncio.CancelledError])
def test_other_errors_do_not_touch_it(error: type[BaseException]) -> None:
    """It is for a lack of memory."""
    r = mempool.rescue("1 MiB")
    with pytest.raises(error), r:
        raise error
    assert (r.used, r.ready) == (0, True)


def test_a_lack_of_memory_in_a_group_counts() -> None:
    """As a task group raises it, however deep."""
    r = mempool.rescue("1 MiB")
    with pytest.raises(ExceptionGroup), r:
        raise ExceptionGroup("tasks", [ValueError(), ExceptionGroup("more", [MemoryError()])])
    assert r.used == 1
    with pytest.raises(ExceptionGroup), r:
        raise ExceptionGroup("tasks", [ValueError(), ExceptionGroup("more", [OSError()])])
    assert r.used == 1


def test_a_handler_inside_throws_it_off_itself() -> None:
    """It is made again at the end of the block."""
    with mempool.rescue("1 MiB") as r:
        try:
            raise MemoryError
        except MemoryError:
            r.release()
            assert not r.ready
        r.release()  # there is none
    assert (r.used, r.ready) == (1, True)


def test_a_ballast_that_cannot_be_had_is_an_error() -> None:
    """Before anything depends on it, naming what was asked for."""
    with pytest.raises(MemoryError, match=r"rescue\('8 EiB'\)|rescue\(9223372036854775808\)"):
        mempool.rescue(8 << 60)
    with pytest.raises(ValueError, match="level is one of"):
        mempool.rescue("1 MiB", level="solid")


def test_where_memory_is_still_short_the_next_block_runs_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quietly: `ready` tells. It is tried again at every end and beginning."""
    r = mempool.rescue("1 MiB")
    r.release()

    def refuse(_memory: Memory) -> None:
        raise MemoryError("still short")

    with monkeypatch.context() as short:
        short.setattr(Memory, "take", refuse)
        with r:
            assert not r.ready
        assert not r.ready
    with r:
        assert r.ready


def test_closing_gives_it_back_for_good() -> None:
    """No block takes it again."""
    r = mempool.rescue("1 MiB")
    r.close()
    with r:
        assert not r.ready
    assert not r.ready
    assert "thrown off" in repr(r)


def test_threads_share_one() -> None:
    """The first that fails throws it off; whoever comes to its end well takes it again, once."""
    r = mempool.rescue("1 MiB")
    inside = threading.Barrier(5)
    threads = []

    def work(number: int) -> None:
        try:
            with r:
                inside.wait(60)
                if number % 2:
                    raise MemoryError
        except MemoryError:
            pass

    for number in range(5):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join(60)
    assert 1 <= r.used <= 2
    with r:
        assert r.ready
    assert len(r._ballast) == 1


SCENE = """
    import json, logging, tempfile
    from pathlib import Path

    def answer(text, file):
        '''What an error path does: it logs, flushes, writes and answers, with a few MiB on the way.'''
        logging.getLogger("scene").error("out of memory: %s", text)
        payload = json.dumps({"sorry": "x" * (3 << 20)})
        with open(file, "w") as out:
            out.write(payload)
            out.flush()
            os.fsync(out.fileno())
        return len(payload)

    logging.basicConfig(stream=sys.stdout)
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name, "answer")
    answer("warmed up", file)
    file.unlink()
    limit_address_space(64 << 20)
    def work(kept):
        kept += fill()
        while True:
            kept.append(bytearray(1 << 20))  # what the allocator still has of its own
    kept = []
"""


def test_an_error_path_works_when_the_address_space_is_full() -> None:
    """Under a real limit: with the ballast it logs, writes megabytes and answers; the next block has a ballast again."""
    said = run(
        SCENE
        + """
    r = mempool.rescue("16 MiB")
    try:
        with r:
            work(kept)
    except MemoryError as error:
        print("answered", answer(f"used {r.used}", file), file.stat().st_size)
    del kept[:]
    with r:
        print("ready", r.ready, "used", r.used)
    """
    )
    assert "ERROR:scene:out of memory: used 1" in said
    assert f"answered {(3 << 20) + 13} {(3 << 20) + 13}" in said
    assert "ready True used 1" in said


def test_the_same_error_path_fails_without_a_ballast() -> None:
    """Or the test above shows nothing."""
    said = run(
        SCENE
        + """
    try:
        try:
            work(kept)
        except MemoryError as error:
            answer("none used", file)
    except MemoryError:
        print("the handler failed")
    """
    )
    assert "the handler failed" in said


def test_a_handler_inside_works_after_a_release() -> None:
    """Which itself needs no memory."""
    said = run(
        SCENE
        + """
    with mempool.rescue("16 MiB") as r:
        try:
            work(kept)
        except MemoryError as error:
            r.release()
            print("answered", answer(f"used {r.used}", file))
            del kept[:]
    print("ready", r.ready)
    """
    )
    assert "answered" in said
    assert "ready True" in said


def test_a_ballast_that_another_thread_throws_off_as_it_comes_is_not_missed() -> None:
    """Two regions are one too many; none, because somebody needed it at once, is as good as one."""
    r = mempool.rescue("1 MiB")
    thrown_off: list[int] = []

    class ThrownOffAtOnce(list[Any]):
        def append(self, region: Any) -> None:
            super().append(region)
            r.release()
            thrown_off.append(len(self))

    r.close()
    r._closed, r._ballast = False, ThrownOffAtOnce()
    with r:
        assert (r.ready, thrown_off, r.used) == (False, [0], 1)
