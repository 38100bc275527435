"""Tests, run in a fork of a process that has imported pytest and all that tests import, but not mempool.

The fork imports mempool from the tree in the working directory. So a change of that tree is in force in it, and what a test
leaves behind (threads, children, patched modules) ends with its fork: the whole group of processes is killed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any, NoReturn

import pytest

#: What takes long to import, and does not import mempool.
HEAVY = (
    *("asyncio", "concurrent.futures", "ctypes", "decimal", "email", "http.client", "inspect", "multiprocessing", "sqlite3"),
    *(
        "_pytest.assertion.rewrite",
        "cython",
        "hypothesis",
        "hypothesis.stateful",
        "hypothesis.strategies",
        "numpy",
        "pytest_timeout",
    ),
    *("_hypothesis_pytestplugin", "anyio.pytest_plugin", "execnet", "pdb", "tomllib", "trio", "unittest.mock", "uvloop"),
)
#: For the conftest of the copies: a failure is enough, it need not be made small.
NO_SHRINKING = """
from hypothesis import Phase, settings
settings.register_profile("mutants", phases=[Phase.reuse, Phase.generate])
settings.load_profile("mutants")
"""
#: To rewrite assertions, for messages that nobody reads, takes longer than most tests.
OPTIONS = ("-q", "--assert=plain", "-pno:cacheprovider", "--tb=short", "--basetemp=build/tmp")
#: Where a fork leaves its outcome, and what pytest printed.
OUTCOME = Path("build/outcome.json")
PRINTED = Path("build/printed.txt")


@dataclass
class Outcome:
    """`failed`: the tests that did, or what ended their process. The others are filled as far as it went on."""

    failed: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    #: Of each test: file of the package -> lines that ran.
    lines: dict[str, dict[str, list[int]]] = field(default_factory=dict)


def prepare() -> None:
    """To be called once, in the process that is forked."""
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if "mempool" in sys.modules:
        raise RuntimeError("mempool was imported before the first fork, which would not see a change of it")
    gc.collect()
    gc.freeze()


def run(tests: Sequence[str], *, recording: bool = False, limit: float) -> Outcome:
    """Run these tests, in this order, until one fails; or all those of a file, with the lines that each runs.

    A fork is ended after `limit` seconds of processor time, or after so many in which it did not wait for a processor.
    """
    return in_fork(lambda: _be_the_fork(tests, recording), limit)


def in_fork(run_tests: Callable[[], NoReturn], limit: float) -> Outcome:
    """What a fork, which does this, has written to OUTCOME."""
    OUTCOME.parent.mkdir(exist_ok=True)
    OUTCOME.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 2))
            run_tests()
        finally:
            os._exit(1)
    began = time.monotonic()
    ending = os.pidfd_open(pid)
    hung = False
    while not hung and not select.select([ending], [], [], 0.2)[0]:
        hung = time.monotonic() - began - kept_waiting(pid) > limit
    with contextlib.suppress(ProcessLookupError):  # it may be gone, and have left nobody behind
        os.killpg(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    os.close(ending)
    if hung:
        return Outcome(failed=["hung"])
    try:
        return Outcome(**json.loads(OUTCOME.read_text("utf-8")))
    except FileNotFoundError:
        return Outcome(failed=[f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended early"])


def kept_waiting(pid: int) -> float:
    """Seconds that the threads of a process have waited for a processor, on a busy machine."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread has ended meanwhile
            total += int(path.read_text().split()[1])
    return total / 1e9


def print_to_file() -> None:
    PRINTED.parent.mkdir(exist_ok=True)
    printed = os.open(PRINTED, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)


def leave(outcome: Outcome) -> None:
    partial = OUTCOME.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(outcome)), "utf-8")
    partial.rename(OUTCOME)


def _be_the_fork(tests: Sequence[str], recording: bool) -> NoReturn:
    status = 1
    try:
        print_to_file()
        sys.path.insert(0, os.environ["PYTHONPATH"])
        sys.dont_write_bytecode = not recording  # the change has bytecode of its own, in memory only
        if not recording:
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        reporter = Reporter(tests, Recorder(f"{os.environ['PYTHONPATH']}/") if recording else None)
        status = pytest.main([*OPTIONS, *([] if recording else ["-x"]), *tests], plugins=[reporter])
        if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}:
            reporter.outcome.failed.append(f"pytest: {status!r}")
        elif status == pytest.ExitCode.TESTS_FAILED and not reporter.outcome.failed:
            reporter.outcome.failed.append("a test cannot be collected")
        leave(reporter.outcome)
    finally:
        os._exit(int(status))


class Recorder:
    """Which lines of the package run. Whoever traces with sys.settrace meanwhile does not disturb it, nor it them."""

    ID = 4

    def __init__(self, package: str) -> None:
        self.package = package
        self.lines: dict[str, set[int]] = {}
        monitoring: Any = vars(sys)["monitoring"]  # of Python 3.12 and newer
        self.disable, self.begin_again = monitoring.DISABLE, monitoring.restart_events
        monitoring.use_tool_id(self.ID, "mutants")
        monitoring.register_callback(self.ID, monitoring.events.LINE, self._note)
        monitoring.set_events(self.ID, monitoring.events.LINE)

    def _note(self, code: CodeType, line: int) -> Any:
        if code.co_filename.startswith(self.package):
            self.lines.setdefault(code.co_filename[len(self.package) :], set()).add(line)
        return self.disable

    def begin(self) -> dict[str, set[int]]:
        self.lines = {}
        self.begin_again()
        return self.lines


class Reporter:
    """A plugin of pytest: runs the chosen tests in the given order, and fills the outcome."""

    def __init__(self, tests: Sequence[str], recorder: Recorder | None) -> None:
        self.rank = {test: number for number, test in enumerate(tests)}
        self.recorder = recorder
        self.outcome = Outcome()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        everything = list(items)
        yield  # where the conftest takes a sample: of what is chosen already, there is none to be taken
        if self.recorder is None:
            chosen = [item for item in everything if item.nodeid in self.rank]
            items[:] = sorted(chosen, key=lambda item: self.rank[item.nodeid])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        if self.recorder is None:
            return (yield)
        lines = self.recorder.begin()
        result = yield
        self.outcome.lines[item.nodeid] = {file: sorted(numbers) for file, numbers in lines.copy().items()}
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.outcome.seconds[report.nodeid] = self.outcome.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed and report.nodeid not in self.outcome.failed:
            self.outcome.failed.append(report.nodeid)
