"""`mempool demo` as its user meets it: files are hashed while memory really runs out; and how it fails."""

import errno
import functools
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import tracemalloc
from pathlib import Path

import pytest
import without_the_gil

import mempool
from mempool.cli import main
from mempool.testing import wait_until

pytest.importorskip("click")
pytest.importorskip("rich")
if not sys.platform.startswith("linux"):
    pytest.skip("a limit on memory is enforced on Linux only", allow_module_level=True)

from rich.console import Console

from mempool.cli.demo import verdict
from mempool.cli.out_of_memory import children, hashing
from mempool.cli.out_of_memory.files import Tree, compare, find_files
from mempool.cli.out_of_memory.hashing import Course, Hashing, Mark
from mempool.cli.out_of_memory.report import ROWS, Report, compare_speeds
from mempool.cli.out_of_memory.screen import OPEN, LiveScreen
from mempool.cli.out_of_memory.words import PHASES, Job, Outcome, Progress, Run, Status

FILES = 60
JOB = Job(
    run=Run.BYTEARRAY,
    rounds=1,
    workers=2,
    buffer_size=65536,
    reserve=2,
    promise=8,
    limit=8,
    queue=2,
    allowance=8 << 20,
    address_space=None,
    latency=0.0,
    seconds=5.0,
)


@pytest.fixture(scope="module")
def many_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all sizes around the chunk's, in folders. Nobody changes them."""
    root = tmp_path_factory.mktemp("files") / "tree"
    for number in range(FILES):
        folder = root / f"folder {number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(bytes([number]) * (number * 7001))
    return root


@pytest.fixture
def tree(many_files: Path, tmp_path: Path) -> Path:
    """The same, of the test's own."""
    return Path(shutil.copytree(many_files, tmp_path / "tree"))


def demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command, in a process, with what suits a small tree."""
    if without_the_gil.BUILT_WITHOUT:
        pytest.skip(without_the_gil.NO_LIMIT)
    command = [sys.executable, "-m", "mempool", "demo", "--rounds=1", "--workers=8", "--buffer-size=64 KiB", "--reserve=2"]
    command += ["--limit=24", "--promise=24", "--memory=8 MiB", "--latency=1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def shown(many_files: Path) -> subprocess.CompletedProcess[str]:
    """One run with the figures, at which several tests look: it takes seconds."""
    return demo(many_files, "--json", "-")


# -- the main job ---------------------------------------------------------------------------------------------------


@pytest.mark.long_on_both
def test_files_fail_without_a_pool_and_none_fails_with_one_or_with_a_queue(tree: Path, tmp_path: Path) -> None:
    """The same files under the same limit beside the same ballast; the pool's reserve is resized meanwhile."""
    told = demo(tree, "--json", tmp_path / "figures.json")
    assert told.returncode == 0, told.stdout + told.stderr
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    runs = without, pooled, queued = figures["run_a"], figures["run_b"], figures["run_c"]
    assert len({run["address_space"] for run in runs}) == 1
    # All that were begun while memory was out, and these are known: it runs out when nobody holds a buffer. But one may find
    # the arena of 1 MiB that the interpreter gives back just then, before the ballast has looked again.
    assert FILES // 2 - 2 <= without["files"]["out_of_memory"] <= FILES // 2
    assert sum(without["files"].values()) == FILES
    for run in (pooled, queued):
        assert run["files"]["done"] == FILES
        assert run["files"]["out_of_memory"] == 0
        assert run["ballast_max"] > 4 << 20
    assert figures["digests"] == {"compared": FILES, "equal": FILES, "changed": 0, "different": []}
    assert figures["audit"]["holds"]
    assert figures["faults"] == []
    pool = pooled["pool"]
    assert pool["made"] - pool["disposed"] == pool["spare"]
    assert pool["out"] == 0
    assert pool["resizes"] == 1


def test_while_memory_is_out_the_pool_has_what_it_promised_and_no_more_and_the_queue_what_it_had(
    shown: subprocess.CompletedProcess[str], many_files: Path
) -> None:
    """What the pool had beyond its reserve it has given back: the others get as much as beside the queue."""
    figures = json.loads(shown.stdout)
    size = figures["options"]["buffer_size"]
    for _ in range(3):  # an arena of the interpreter's own, made meanwhile, is as large as all these buffers
        ballasts = [figures[run]["phases"][1]["ballast"] for run in ("run_b", "run_c")]
        if abs(ballasts[0] - ballasts[1]) < figures["options"]["limit"] * size / 2:
            break
        figures = json.loads(demo(many_files, "--json", "-").stdout)
    else:
        raise AssertionError(f"the pool kept what others could have used: {ballasts}")
    (spare, out, _, again), (queue_spare, queue_out, *_) = (figures[run]["phases"] for run in ("run_b", "run_c"))
    assert 1 <= out["buffers"] <= 2
    assert figures["run_b"]["pool"]["made"] > figures["options"]["reserve"], "it has grown"
    assert spare["buffers"] <= 8
    assert again["buffers"] <= 8
    assert queue_spare["buffers"] <= 2
    assert queue_out["buffers"] <= 2


@pytest.mark.long_on_both
def test_the_pool_is_faster_with_memory_to_spare_as_it_grows_where_the_queue_cannot(tree: Path) -> None:
    """Each read waits for a far disk: eight workers with eight buffers against eight workers with two."""
    figures = json.loads(demo(tree, "--latency=15", "--json", "-").stdout)
    spare, queue_spare = (figures[run]["phases"][0] for run in ("run_b", "run_c"))
    assert spare["buffers"] > 2
    assert queue_spare["buffers"] == 2
    assert spare["reads"] / spare["seconds"] > 1.3 * queue_spare["reads"] / queue_spare["seconds"]


@pytest.mark.long_on_both
def test_where_the_queue_has_as_many_buffers_the_demo_says_that_it_does_as_well(tree: Path) -> None:
    """Nothing is bent: a queue of more than the pool's limit fails no file, and what it costs is said."""
    told = demo(tree, "--queue=64", "--json", "-")
    figures = json.loads(told.stdout)
    assert figures["run_c"]["files"]["done"] == FILES
    assert "queue: failed no file either" in told.stderr
    kept = figures["run_b"]["phases"][1]["ballast"] - figures["run_c"]["phases"][1]["ballast"]
    assert kept >= 40 * 65536
    assert "more than the pool from the others while memory is out" in told.stderr


def test_a_grow_while_memory_is_out_says_what_it_falls_short_of(shown: subprocess.CompletedProcess[str]) -> None:
    """The guarantee that a resize returns is shown: 24 promised, 22 of them not there; and all, once memory is back."""
    figures = json.loads(shown.stdout)
    grow, refill = figures["run_b"]["resizes"]
    assert (grow["from"], grow["to"]) == (2, 24)
    assert grow["unfunded"] == 22
    assert refill["unfunded"] == 0
    assert "pool.resize(reserve=24) -> Guarantee(promised=24, " in shown.stderr, "the lines for people go elsewhere"


@pytest.mark.long_on_both
def test_a_task_of_asyncio_works_in_the_same_line_and_the_planted_mistake_is_caught(tree: Path) -> None:
    """Only the pool's run has the one and sees the other; the queue's hands the returned buffer's bytes to two."""
    figures = json.loads(demo(tree, "--rounds=5", "--json", "-").stdout)
    assert figures["run_b"]["files_of_the_task"] > 0
    assert figures["run_b"]["misuse"] == "UseAfterFree"
    assert figures["run_c"]["misuse"] is None
    assert figures["run_c"]["is_returning"]


@pytest.mark.long
@pytest.mark.long_on_both
def test_the_output_to_a_pipe_is_plain_lines(tree: Path) -> None:
    """No colours, no bars; the words, the table, the audit and the verdict at the end."""
    told = demo(tree)
    assert "\x1b" not in told.stdout
    assert "MemoryError: there was no buffer" in told.stdout
    assert "A bytearray" in told.stdout
    assert "== spare" in told.stdout
    assert told.stdout.endswith("passed: run B failed no file\n")


@pytest.mark.long
@pytest.mark.long_on_both
def test_only_regular_files_are_hashed(tree: Path, tmp_path: Path) -> None:
    """A FIFO would never end, a link would lead elsewhere; an empty file has a digest too."""
    os.mkfifo(tree / "fifo")
    (tree / "broken link").symlink_to("nowhere")
    (tree / "link to a folder").symlink_to(tmp_path)
    (tree / "empty").touch()
    (tree / os.fsdecode(b"no \xff text")).write_text("named in bytes", "utf-8")
    told = demo(tree, "--json", "-")
    figures = json.loads(told.stdout)
    assert told.returncode == 0
    assert figures["files"] == figures["run_b"]["files"]["done"] == FILES + 2
    assert figures["not_regular"] == 3


@pytest.mark.long
@pytest.mark.long_on_both
def test_one_file_is_enough_to_show_it(tree: Path) -> None:
    """Memory is out before the first file of one, too."""
    figures = json.loads(demo(tree / "folder 1" / "1", "--json", "-").stdout)
    assert figures["run_a"]["files"]["out_of_memory"] == 1
    assert figures["run_b"]["files"]["done"] == 1
    assert figures["run_c"]["files"]["done"] == 1


@pytest.mark.long
@pytest.mark.long_on_both
def test_each_run_ends_in_time_and_counts_what_it_has_not_reached(tree: Path) -> None:
    """Memory runs out within the time, too."""
    told = demo(tree, "--rounds=5000", "--seconds=2", "--json", "-")
    figures = json.loads(told.stdout)
    assert told.returncode == 0, told.stderr
    assert figures["run_b"]["files"]["not_reached"] > 0
    assert figures["run_b"]["files"]["done"] > 0
    assert figures["run_a"]["files"]["out_of_memory"] > 0
    assert figures["run_a"]["seconds"] < 15  # 300,000 files would take minutes


@pytest.mark.long_on_both
def test_an_interrupt_ends_it_with_its_children(tree: Path) -> None:
    """As from a keyboard, to all processes of the group; one line and a shell's status."""
    command = [sys.executable, "-m", "mempool", "demo", "--rounds=20000", "--seconds=50", tree]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # The tests may run where the keyboard's interrupt is ignored, as a job in the background: not this process.
    heeding = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **pipes, text=True, process_group=0, preexec_fn=heeding) as process:  # noqa: PLW1509 - no thread runs here
        assert process.stdout
        while not process.stdout.readline().startswith("A "):
            pass
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.strip() == "mempool: interrupted"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


# -- what becomes of a file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), Status.OUT_OF_MEMORY),
        (OSError(errno.ENOMEM, "no memory"), Status.OUT_OF_MEMORY),
        (PermissionError(errno.EACCES, "not yours"), Status.UNREADABLE),
        (OSError(errno.EIO, "a bad disk"), Status.UNREADABLE),
        (FileNotFoundError(errno.ENOENT, "gone"), Status.VANISHED),
        (hashing.TimeUpError(), Status.NOT_REACHED),
        (RuntimeError("a bug"), Status.BROKEN),
    ],
    ids=repr,
)
def test_only_a_want_of_memory_counts_as_one(error: Exception, status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    """What we may not read, what is gone and what the clock cut off are told apart from it."""

    def fail(_path: bytes) -> None:
        raise error

    monkeypatch.setattr(hashing, "open_regular", fail)
    work = Hashing(JOB, [b"a", b"b"], Course(2, 5.0, ()))
    work.work(0)
    assert list(work.statuses) == [status, status]
    assert work.complaints == (["RuntimeError: a bug"] * 2 if status is Status.BROKEN else [])


def test_a_file_that_became_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    """Between the count and its turn anything may happen to it."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    paths = [os.fsencode(tmp_path / name) for name in ("fifo", "folder", "nothing")]
    work = Hashing(JOB, paths, Course(3, 5.0, ()))
    work.work(1)
    assert list(work.statuses) == [Status.UNREADABLE, Status.UNREADABLE, Status.VANISHED]


def test_every_mark_of_a_course_is_met_in_its_order() -> None:
    """With few files, and when the time is up before the files are."""
    met: list[str] = []
    marks = [
        Mark(0.2, lambda: met.append("out")),
        Mark(0.5, lambda: met.append("half")),
        Mark(0.6, lambda: met.append("out again")),
    ]
    course = Course(10, 60.0, marks)
    assert [(course.next(), len(met)) for _ in range(11)] == [
        *((n, 0) for n in range(2)),
        *((n, 1) for n in range(2, 5)),
        (5, 2),
        *((n, 3) for n in range(6, 10)),
        (None, 3),
    ]
    met.clear()
    late = Course(10, 1e-9, marks)
    assert late.next() is None
    assert met == ["out", "half", "out again"]


def test_a_mark_in_a_lull_waits_until_nobody_has_a_file() -> None:
    """So nobody has a buffer when memory runs out, and who fails is no draw."""
    held: list[int] = []
    course = Course(2, 60.0, [Mark(0.5, lambda: held.append(course.in_work), in_a_lull=True)])
    assert course.next() == 0
    given: list[int | None] = []
    second = threading.Thread(target=lambda: given.append(course.next()))
    second.start()
    wait_until(lambda: course.waiting == 1)
    assert held == given == []
    course.done()
    second.join()
    assert held == [0]
    assert given == [1]


def test_run_a_has_let_go_of_its_bytearray_when_its_file_is_done(tree: Path) -> None:
    """Else run A would keep memory that it has no use for, and would be a straw man."""
    path = os.fsencode(tree / "folder 1" / "1")
    sizes: list[int] = []
    course = Course(2, 60.0, [Mark(0.5, lambda: sizes.append(tracemalloc.get_traced_memory()[0]), in_a_lull=True)])
    work = Hashing(JOB, [path, path], course)
    work.warm_up(0)
    tracemalloc.start()
    try:
        work.work(0)
    finally:
        tracemalloc.stop()
    assert list(work.statuses) == [Status.DONE] * 2
    assert sizes[0] < JOB.buffer_size / 2


# -- the verdict ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "status", "said"),
    [([], 0, "every promise was kept\n"), (["one"], 1, "1 fault\n"), (["one", "other"], 1, "2 faults\n")],
)
def test_the_last_line_counts_the_faults(
    faults: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verdict(faults) == status
    assert capsys.readouterr().out == said


def hashed(tree: Path) -> tuple[Tree, bytes, bytes]:
    """A tree, and what a run without a fault would have of it."""
    found = find_files(tree, lambda _count: None)
    work = Hashing(JOB, found.paths, Course(len(found.paths), 60.0, ()))
    work.work(0)
    return found, bytes(work.statuses), bytes(work.digests)


def test_a_wrong_digest_is_found(tree: Path) -> None:
    """One bit of one file."""
    found, statuses, digests = hashed(tree)
    assert compare(found, statuses, digests, lambda _count: None).equal == FILES
    wrong = bytes([digests[0] ^ 1]) + digests[1:]
    comparison = compare(found, statuses, wrong, lambda _count: None)
    assert comparison.equal == FILES - 1
    assert comparison.different == [os.fsdecode(found.paths[0])]


def test_a_file_that_was_changed_or_deleted_meanwhile_is_no_wrong_digest(tree: Path) -> None:
    """There is nothing to compare with any more."""
    found, statuses, digests = hashed(tree)
    Path(os.fsdecode(found.paths[3])).write_text("something else", "utf-8")
    Path(os.fsdecode(found.paths[4])).unlink()
    comparison = compare(found, statuses, digests, lambda _count: None)
    assert (comparison.compared, comparison.equal, comparison.changed) == (FILES - 2, FILES - 2, 2)
    assert comparison.different == []


def outcome(**changes: object) -> Outcome:
    pool = {"reserve": 2, "spare": 3, "out": 0, "disposing": 0, "made": 5, "disposed": 2, "resizes": 1}
    pool |= {"served_from_spare": 1, "served_from_source": 5, "served_from_reserve": 1, "served_from_line": 0}
    pool |= {"waits_served": 0, "wait_seconds_max": 0.0, "wait_seconds_total": 0.0, "source_failures": 1}
    files = {status.name.lower(): 0 for status in Status}
    told = {
        "seconds": 1.0,
        "files": files | {"done": 2},
        "complaints": [],
        "hashed": 10,
        "phases": [{"seconds": 1.0, "reads": 9, "buffers": 2, "ballast": 1 << 20} for _ in PHASES],
        "waited_max": 0.01,
        "files_of_the_task": 1,
        "is_returning": True,
        "misuse": "UseAfterFree",
        "address_space": 1 << 26,
        "address_space_before": 1 << 25,
        "ballast_max": 1 << 24,
        "resident_max": 1 << 25,
        "resizes": [],
        "steerings": [],
        "pool": pool,
        "left_after_close": 0,
    }
    for name, change in changes.items():
        told[name] = {**told[name], **change} if isinstance(change, dict) else change  # type: ignore[dict-item]
    return Outcome(**told)  # type: ignore[arg-type]


@pytest.mark.long_on_both
@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"files": {"unreadable": 1, "vanished": 1, "not_reached": 1}}, None),
        ({"files": {"out_of_memory": 1}}, "run B failed 1 files for want of memory"),
        ({"files": {"broken": 1}, "complaints": ["X: y"]}, "run B failed 1 files: X: y"),
        ({"files": {"done": 0}}, "run B has hashed no file"),
        ({"misuse": None}, "the planted mistake met no error in run B, not UseAfterFree"),
        ({"misuse": "KeyError"}, "the planted mistake met KeyError in run B, not UseAfterFree"),
        ({"pool": {"made": 6}}, "the audit does not hold: made 6 - disposed 2 != spare 3 + out 0; 0 left after close"),
        ({"pool": {"made": 6, "out": 1}}, "the audit does not hold: made 6 - disposed 2 == spare 3 + out 1; 0 left"),
        (
            {"left_after_close": 1},
            "the audit does not hold: made 5 - disposed 2 == spare 3 + out 0; 1 left after close",
        ),
    ],
    ids=str,
)
def test_run_b_passes_only_with_no_file_failed_and_books_that_balance(
    changes: dict[str, object], fault: str | None, tree: Path
) -> None:
    found, statuses, digests = hashed(tree)
    runs = {run: outcome(**changes if run is Run.POOL else {}) for run in Run}
    report = Report(found, JOB, runs, compare(found, statuses, digests, lambda _count: None))
    assert len(report.faults) == (fault is not None)
    assert fault is None or report.faults[0].startswith(fault)
    kind, text = list(report.verdict())[-1]
    assert kind == ("passed" if fault is None else "FAILED")
    assert fault is None or text.startswith(fault)


@pytest.mark.parametrize(
    ("pooled", "queued", "finding"),
    [
        (100.0, 100.0, ("same", "pool and queue are equally fast then (1.00 x)")),
        (100.0, 105.0, ("same", "pool and queue are equally fast then (0.95 x)")),
        (105.0, 100.0, ("same", "pool and queue are equally fast then (1.05 x)")),
        (100.0, 106.0, ("queue", "1.06 times as fast as the pool then")),
        (100.0, 110.0, ("queue", "1.10 times as fast as the pool then")),
        (107.0, 100.0, ("pool", "1.07 times as fast as the queue then")),
        (300.0, 100.0, ("pool", "3.0 times as fast as the queue then")),
        (100.0, 200.0, ("queue", "2.0 times as fast as the pool then")),
        (100.0, 0.0, ("note", "no speeds to compare then: too few files")),
    ],
)
def test_who_is_faster_is_said_as_it_is(pooled: float, queued: float, finding: tuple[str, str]) -> None:
    """Also where it is the queue."""
    assert compare_speeds("then", pooled, queued) == finding


# -- what it looks like ---------------------------------------------------------------------------------------------


def test_a_terminal_shows_bars_and_the_state_of_the_pool() -> None:
    """Files, failures, speed; spare, out, line and promise."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with LiveScreen(console) as screen:
        screen.begin("looking for files", 0)
        screen.count(1200)
        screen.begin("B, pool", 1200)
        screen.progress(Progress(2.0, 600, 599, 1, 10 << 20, 5 << 20, 8, 3, 4, 2, 1))
        screen.event(2.0, "memory is out")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "600/1,200 files" in shown
    assert "1 failed" in shown
    assert "5 MiB/s" in shown
    assert "the others have 5 MiB; 3 spare, 4 out, 2 in line; promise of 8: 1 unfunded" in shown
    assert "B   2.0 s  memory is out" in shown


def test_a_bar_has_the_colour_of_its_outcome_and_a_run_that_failed_is_never_green() -> None:
    """Red from the first failure on, green only at a good end."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system="standard")
    with LiveScreen(console) as screen:
        screen.begin("A bytearray", 10)
        screen.progress(Progress(1.0, 5, 4, 1, 1, 1, 0, 0, 0, 0, 0))
        assert screen.colour == "red"
        screen.progress(Progress(1.0, 10, 9, 1, 1, 1, 0, 0, 0, 0, 0))
        screen.end(is_well=False)
        assert screen.colour == "red"
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        screen.begin("B pool", 10)
        screen.progress(Progress(1.0, 10, 10, 0, 1, 1, 0, 0, 0, 0, 0))
        assert screen.colour == OPEN
        screen.end(is_well=True)
        assert screen.colour == "green"
    assert "\x1b[32m\u2501" not in shown, "no green bar while only the failed run was there"


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_end_of_the_demo_fits_the_terminal(width: int, tree: Path) -> None:
    """No line is longer, no name is cut, and each word of the table has a meaning."""
    found, statuses, digests = hashed(tree)
    report = Report(
        found,
        JOB,
        {run: outcome(misuse="UseAfterFree" if run is Run.POOL else None) for run in Run},
        compare(found, statuses, digests, lambda _count: None),
    )
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    report.show(console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    for row in ROWS:
        assert sum(line.startswith(f"{row.name} ") for line in lines) == (0 if row.is_rare else 2), row.name
    assert not any("\u2026" in line for line in lines)
    table = next(number for number, line in enumerate(lines) if "A bytearray" in line and "B pool" in line)
    assert len(lines) - table < 24, "the table and the verdict are on one screen"


# -- how it fails ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere"],
        ["a", "b"],
        ["--workers=0"],
        ["--workers=many"],
        ["--buffer-size=4 KiB"],
        ["--buffer-size=big"],
        ["--buffer-size=1.3"],
        ["--reserve=0"],
        ["--reserve=4,8"],
        ["--reserve=-1"],
        ["--reserve=25"],
        ["--limit=3"],
        ["--promise=3"],
        ["--promise=25"],
        ["--queue=0"],
        ["--queue=1000"],
        ["--memory=1 MiB"],
        ["--memory=1 TiB"],
        ["--latency=-1"],
        ["--latency=long"],
        ["--seconds=0"],
        ["--seconds=nan"],
        ["--seconds=soon"],
        ["--rounds=0"],
        ["--json=/nowhere/figures.json"],
        ["--json=."],
        ["--unheard-of"],
        ["."],
    ],
    ids=" ".join,
)
def test_a_bad_argument_gets_one_clear_line_and_status_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`.` is an empty folder: nothing to hash is a bad argument too."""
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("mempool: ")
    assert told.err.count("\n") == 1


def test_more_files_than_digests_have_room_is_a_bad_argument(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before anything is begun."""
    assert main(["demo", "--rounds=1000000", str(tree)]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("mempool: 60 files x 1,000,000 rounds are too many, 10,000,000 is the most")
    assert told.out == ""


@pytest.mark.sample(3)
@pytest.mark.long_on_both
@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (
            "Hashing.use_after_return = lambda self: None",
            "FAILED: the planted mistake met no error in run B, not UseAfterFree",
        ),
        ("Hashing._read = lambda *_: bytes(32)", "digests are wrong: "),
        ("Pool.lease = lambda self: nullcontext(bytearray(65536))", "files for want of memory"),
    ],
)
def test_a_pool_that_does_not_do_it_ends_the_demo_with_status_1_and_no_word_of_success(
    broken: str, fault: str, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real child, in which something is broken."""
    imports = (
        "import sys; sys.path.append(sys.argv[1]); from contextlib import nullcontext; from mempool import Pool; "
        "from mempool.cli.out_of_memory.hashing import Hashing; from mempool.cli.out_of_memory import child; "
    )
    # Only where the pool is the buffers' source: the other runs stay as they are.
    here = f"exec({broken!r})"
    patched = f"{imports}lay = child.Child._lay_in_buffers\ndef broken(self):\n    lay(self)\n    if self.pool: {here}\n"
    monkeypatch.setattr(children, "PROGRAM", f"{patched}child.Child._lay_in_buffers = broken\nchild.main()")
    small = ["--rounds=1", "--workers=8", "--buffer-size=64 KiB", "--reserve=2", "--memory=8 MiB", "--latency=1"]
    assert main(["demo", *small, str(tree)]) == 1
    said = capsys.readouterr().out
    assert fault in said
    assert "passed" not in said


@pytest.mark.parametrize("name", ["click", "rich"])
def test_without_the_extra_one_line_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert main([]) == 1
    told = capsys.readouterr()
    assert told.err == f"mempool: the command line needs {name}: pip install click rich\n"


def test_the_version_names_the_core(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"mempool {mempool.__version__}, {mempool.IMPLEMENTATION} core")


def test_no_command_at_all_gets_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "demo" in capsys.readouterr().out


def test_on_a_python_that_was_built_without_the_gil_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There a limit is not felt by all threads alike."""
    monkeypatch.setattr(sysconfig, "get_config_var", {"Py_GIL_DISABLED": 1}.get)
    assert main(["demo"]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("mempool: the demo needs a Python that was built with the GIL: ")
    assert told.err.count("\n") == 1


def test_elsewhere_than_on_linux_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert main(["demo"]) == 1
    told = capsys.readouterr()
    assert told.err == ("mempool: the demo needs Linux, where a limit on memory is enforced; this is darwin\n")


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("import sys; sys.exit('it broke')", "mempool: run A ended early, with status 1: it broke\n"),
        ("import os; os.kill(os.getpid(), 9)", "mempool: run A ended early, with status -9\n"),
        ("print('[\"end\", {}]')", "mempool: run A ended early, with status 0\n"),
        (
            "import sys; sys.exit(3)",
            "mempool: this system does not enforce RLIMIT_AS: memory does not run out, nothing to show\n",
        ),
    ],
)
def test_a_child_that_dies_is_told_in_one_line(
    program: str, line: str, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(children, "PROGRAM", program)
    assert main(["demo", str(tree)]) == 1
    assert capsys.readouterr().err == line


def test_a_child_that_hangs_is_ended(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It reads its job and says nothing; nobody waits longer than its time and the grace."""
    monkeypatch.setattr(children, "PROGRAM", "import sys, threading; sys.stdin.read(); threading.Event().wait()")
    monkeypatch.setattr(children, "GRACE", 0.2)
    assert main(["demo", "--seconds=0.1", str(tree)]) == 1
    assert capsys.readouterr().err == "mempool: run A has not ended 0 s after its time was up\n"


def test_the_digests_are_those_of_hashlib(tree: Path) -> None:
    """Chunk by chunk as well as whole."""
    found, _, digests = hashed(tree)
    for number, path in enumerate(found.paths):
        whole = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).digest()
        assert digests[number * 32 : (number + 1) * 32] == whole
