"""`mempool ls`, `why`, `resize`: what they say, and the status a script can rely on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from programs import Program

from mempool import Buffers, Objects, Pool, watch
from mempool.cli.app import mempool as command
from mempool.testing import wait_until
from mempool.watch.reader import Reader


def called(*arguments: str, status: int = 0) -> str:
    if arguments[0] == "why" and "--patience" not in arguments:
        arguments += ("--patience", "60")  # a machine that does other things as well
    ended = CliRunner().invoke(command, arguments, standalone_mode=False)
    code = getattr(ended.exception, "exit_code", ended.return_value) or 0
    if ended.exception is not None and not hasattr(ended.exception, "exit_code"):
        raise ended.exception
    assert code == status, (ended.output, ended.exception)
    return ended.output + (ended.exception.format_message() if ended.exception is not None else "")  # type: ignore[attr-defined]


# -- ls


def test_a_directory_without_a_pool_is_status_1(folder: Path) -> None:
    assert "MEMPOOL_WATCH=numbers" in called("ls", status=1)


def test_an_unfit_directory_is_told_and_status_1(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    folder.chmod(0o777)
    assert "chmod 0700" in called("ls", status=1)
    assert called("ls", "--wrong", status=2)


def test_each_pool_is_a_row_and_the_worst_comes_first(folder: Path) -> None:
    watch.publish()
    well, used = Pool(Objects(object), 1, name="a well"), Pool(Objects(object), 2, limit=2, name="used")
    held = [used.alloc(), used.alloc()]
    lines = called("ls").splitlines()
    assert lines[0].split() == ["POOL", "PROCESS", "PROMISE", "SPARE", "OUT", "LINE", "LIMIT", "FAILURES", "STATE"]
    assert lines[1].startswith("used ")
    assert lines[1].endswith("the reserve is used up")
    assert lines[2].endswith(" ok")
    used.free_many(held)
    assert well.reserve == 1


def test_the_json_of_ls_keeps_its_schema(folder: Path) -> None:
    """docs/reference/command-line.md tells it: a field that changes its meaning raises `schema`."""
    watch.publish()
    pool = Pool(Buffers("1 KiB"), 2, name="frames")
    document: dict[str, Any] = json.loads(called("ls", "--json"))
    assert document["schema"] == 1
    (process,) = document["processes"]
    assert set(process) == {"pid", "program", "version", "takes_commands", "pools_without_slot", "unreadable"}
    assert (process["pid"], process["takes_commands"], process["unreadable"]) == (os.getpid(), False, None)
    (entry,) = document["pools"]
    assert set(entry) == {
        *("pool", "number", "program", "process", "state", "element_bytes", "stats", "guarantee"),
    }
    assert entry["stats"] == json.loads(json.dumps(pool.stats().as_dict()))
    assert entry["guarantee"]["promised"] == 2
    assert entry["element_bytes"] == 1024


@pytest.mark.long_on_both
def test_fifty_processes_are_listed_in_milliseconds_though_ten_are_stopped_and_one_holds_the_gil(folder: Path) -> None:
    """150 pools: three a process."""
    count = 50 if os.environ.get("MEMPOOL_LONG") == "1" else 12
    body = """
    mempool.watch.publish()
    pools = [Pool(Objects(object), 1, name=f"pool {number}") for number in range(3)]
    children = []
    for number in range(int(os.environ["COUNT"])):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
    ready(*children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    """
    greedy = """
    import ctypes
    mempool.watch.publish()
    pool = Pool(Objects(object), 1, name="greedy")
    print("ready", os.getpid(), flush=True)
    ctypes.PyDLL(None).sleep(60)  # a C call that holds the GIL
    """
    program = Program(body, env={"COUNT": str(count - 1)})
    children: list[int] = []
    try:
        children = list(map(int, program.wait_ready()))
        with Program(greedy):
            reader = Reader()
            # Each child publishes itself, at its own pace; one that is stopped before never would.
            wait_until(lambda: sum(len(page.pools) for page in reader.pages()) == 3 * count + 1)
            for pid in children[:10]:
                os.kill(pid, signal.SIGSTOP)
            seconds = []
            began_all = time.monotonic()
            for _ in range(9):
                began = time.thread_time()  # what it does itself: the machine may be busy
                pages = list(reader.pages())
                seconds.append(time.thread_time() - began)
                assert len(pages) == count + 1
                assert sum(len(page.pools) for page in pages) == 3 * count + 1
            took = statistics.median(seconds)
            print(f"{count} processes, {3 * count} pools: {1000 * took:.2f} ms")
            assert took < 0.005 * SLACK
            assert time.monotonic() - began_all < 30, "it waited for who hangs"
        program.end()
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # one that is stopped would keep the pipe open, and all would wait for it
        program.__exit__(None, None, None)


#: A machine that does other things as well.
SLACK = 6


# -- why


def test_why_of_a_pool_that_is_not_there_is_status_1(folder: Path) -> None:
    assert "no process shows a pool 'nobody'" in called("why", "nobody", status=1)


def test_why_asks_a_process_that_takes_commands(folder: Path) -> None:
    watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name="frames", track="holders")
    element = pool.alloc()
    assert "MainThread" in called("why", "frames")
    assert "MainThread" in called("why", f"frames@{os.getpid()}")
    pool.free(element)


def test_why_of_a_process_that_takes_none_is_told_by_its_figures(folder: Path) -> None:
    watch.publish()
    pool = Pool(Objects(object), 3, limit=3, name="frames")
    held = [pool.alloc() for _ in range(3)]
    said = called("why", "frames")
    assert "3 promised, 0 spare, 3 out, 0 in line; the limit of 3 is reached" in said
    assert "MEMPOOL_WATCH=steer" in said
    pool.free_many(held)


def test_why_of_a_process_that_is_stopped_is_status_3_and_tells_its_figures(folder: Path) -> None:
    body = "mempool.watch.publish(steer=True)\npool = Pool(Objects(object), 3, name='frames')\nready()"
    with Program(body) as program:
        program.stop()
        said = called("why", "frames", "--patience", "0.2", status=3)
        assert "does not answer" in said
        assert "3 promised, 3 spare, 0 out, 0 in line" in said
        assert "does not answer within 0.2 s" in called("resize", "frames", "--reserve", "4", "--patience", "0.2", status=3)


@pytest.mark.long_on_both
def test_why_of_a_name_in_several_processes_tells_all_of_them(folder: Path) -> None:
    body = "mempool.watch.publish()\npool = Pool(Objects(object), 3, name='frames')\nready()"
    with Program(body) as one, Program(body) as other:
        said = called("why", "frames")
        assert f"frames@{one.pid}: " in said
        assert f"frames@{other.pid}: " in said
        assert "2 pools are meant" in called("resize", "frames", "--reserve", "4", status=1)


# -- resize


def test_resize_changes_the_promise_and_says_so(folder: Path) -> None:
    watch.publish(steer=True)
    pool = Pool(Objects(object), 2, name="frames")
    assert f"frames@{os.getpid()}: 6 promised (was 2), 6 spare" in called("resize", "frames", "--reserve", "6")
    assert pool.reserve == 6
    assert "and not 2, as expected" in called("resize", "frames", "--reserve", "9", "--expect", "2", status=1)
    assert pool.reserve == 6
    called("resize", "frames", status=2)
    called("resize", "frames", "--reserve", "-1", status=2)


def test_a_dry_run_tells_the_bytes_and_changes_nothing(folder: Path) -> None:
    """It needs no socket: its figures are enough."""
    watch.publish()
    pool = Pool(Buffers("1 MiB"), 2, name="frames")
    assert "a reserve of 6 would make 4: 4 MiB of memory" in called("resize", "frames", "--reserve", "6", "--dry-run")
    pool.resize(reserve=8)
    assert "would dispose of 4 now: -4 MiB of memory" in called("resize", "frames", "--reserve", "2", "--dry-run")
    assert pool.reserve == 8
    objects = Pool(Objects(object), 2, name="objects")
    assert "not known" in called("resize", "objects", "--reserve", "6", "--dry-run")
    called("resize", "objects", "--reserve", "6", "--dry-run", "--expect", "9", status=1)
    assert objects.reserve == 2


def test_a_dry_run_foretells_what_the_resize_then_makes(folder: Path) -> None:
    watch.publish(steer=True)
    pool = Pool(Buffers("4 KiB"), 4, name="frames")
    for reserve in (9, 4, 1, 7):
        made, disposed = pool.stats().made, pool.stats().disposed
        said = called("resize", "frames", "--reserve", str(reserve), "--dry-run")
        called("resize", "frames", "--reserve", str(reserve))
        more, less = pool.stats().made - made, pool.stats().disposed - disposed
        assert f"would make {more}:" in said or f"would dispose of {less} now:" in said, (reserve, said, more, less)


def test_a_resize_of_a_process_that_takes_no_commands_is_status_3(folder: Path) -> None:
    watch.publish()
    pool = Pool(Objects(object), 2, name="frames")
    assert "run it with MEMPOOL_WATCH=steer" in called("resize", "frames", "--reserve", "3", status=3)
    assert pool.reserve == 2


@pytest.mark.parametrize("target", ["frames", "frames#1", "frames@{pid}", "frames#1@{pid}"])
def test_a_pool_is_named_by_name_number_and_process(folder: Path, target: str) -> None:
    watch.publish()
    pool = Pool(Objects(object), 2, name="frames")
    number = watch.find("frames").number
    named = target.replace("#1", f"#{number}").format(pid=os.getpid())
    assert watch.find(named).name == pool.name
