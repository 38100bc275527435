"""Tests, run in forks of a process that has imported mempool and collected them all: a mutant is put into its functions.

A fork that imports and collects anew (forked_tests.py) takes seconds of processor time before its first test; one of these
takes some hundredths. What is changed outside of functions (a constant, a default, a decorator, the body of a class) is in
force only for those who import anew, so such a mutant is left to forked_tests.py.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NoReturn

import pytest

from verification import forked_tests
from verification.forked_tests import OPTIONS, Outcome, Recorder

#: Why a test failed, to be read by people.
WHY = Path("build/why.txt")
Swaps = list[tuple[FunctionType, CodeType]]


def with_tests(files: Sequence[str], work: Callable[[WarmTests], None]) -> None:
    """Do `work` where these files have been collected. What pytest prints is lost."""
    forked_tests.print_to_file()
    sys.path.insert(0, os.environ["PYTHONPATH"])
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a child of a test shall not keep the bytecode of a mutant
    plugin = WarmTests(work)
    status = pytest.main([*OPTIONS, "--continue-on-collection-errors", *files], plugins=[plugin])
    if not plugin.ended:
        raise RuntimeError(f"pytest ended with {status!r} before it had collected {len(files)} files of tests")


class WarmTests:
    """A plugin of pytest that has something else done in the place of running the tests."""

    def __init__(self, work: Callable[[WarmTests], None]) -> None:
        self.work = work
        self.ended = False
        self.items: dict[str, pytest.Item] = {}
        self.functions: dict[tuple[str, str, int], list[FunctionType]] = {}
        self.outcome = Outcome()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        gc.unfreeze()  # what is frozen is not listed
        package = f"{os.environ['PYTHONPATH']}/"
        for thing in gc.get_objects():
            if type(thing) is FunctionType and thing.__code__.co_filename.startswith(package):
                self.functions.setdefault(key_of(thing.__code__), []).append(thing)
        gc.collect()
        gc.freeze()
        try:
            self.work(self)
        except BaseException:
            traceback.print_exc()
            raise
        self.ended = True
        return True

    def swaps(self, path: Path, sound: str, mutated: str) -> Swaps | None:
        """Which functions get which code. None: something else is changed, or it is a function that nobody has."""
        name = str(path.absolute())
        pairs = [(compile(sound, name, "exec", dont_inherit=True), compile(mutated, name, "exec", dont_inherit=True))]
        swaps: Swaps = []
        while pairs:
            before, after = pairs.pop()
            if before == after:
                continue
            functions = self.functions.get(key_of(before), ())
            if functions and len({function.__code__ for function in functions}) == 1:
                if before.co_freevars != after.co_freevars or functions[0].__code__ != before:
                    return None
                swaps += [(function, after) for function in functions]
                continue
            inner, inner_after = codes(before), codes(after)
            if len(inner) != len(inner_after) or without_codes(before) != without_codes(after):
                return None
            pairs += zip(inner, inner_after, strict=True)
        return swaps or None

    def run(self, tests: Sequence[str], swaps: Swaps = (), *, limit: float, record: Path | None = None) -> Outcome:  # type: ignore[assignment]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads that are forked: no test runs
            return forked_tests.in_fork(lambda: self._be_the_fork(tests, swaps, record), limit)

    def _be_the_fork(self, tests: Sequence[str], swaps: Swaps, record: Path | None) -> NoReturn:
        self.outcome = Outcome()
        recorder = Recorder(f"{os.environ['PYTHONPATH']}/") if record else None
        for function, code in swaps:
            function.__code__ = code
        items = [self.items[test] for test in tests if test in self.items]
        for item, following in zip(items, [*items[1:], None], strict=True):
            lines = recorder.begin() if recorder else {}
            began = time.monotonic() - forked_tests.kept_waiting(os.getpid())
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if record:
                took = max(0.0, time.monotonic() - forked_tests.kept_waiting(os.getpid()) - began)
                ran = {file: sorted(numbers) for file, numbers in lines.copy().items()}
                failed = item.nodeid in self.outcome.failed
                with record.open("a") as file:
                    file.write(json.dumps([item.nodeid, took, ran, failed]) + "\n")
            elif self.outcome.failed:
                break
        forked_tests.leave(self.outcome)
        os._exit(0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid not in self.outcome.failed:
            self.outcome.failed.append(report.nodeid)
            WHY.write_text(report.longreprtext, "utf-8")

    def record(self, file: str, to: Path, limit: float) -> Outcome:
        """Which lines each test of this file runs. One that is not over at the limit ends the record, and is not in it."""
        raw = to.with_suffix(".raw")
        raw.unlink(missing_ok=True)
        self.run([test for test in self.items if test.partition("::")[0] == file], limit=limit, record=raw)
        outcome = Outcome()
        for line in raw.read_text("utf-8").splitlines() if raw.exists() else ():
            with contextlib.suppress(ValueError):  # cut short
                test, outcome.seconds[test], outcome.lines[test], failed = json.loads(line)
                outcome.failed += [test] if failed else []
        raw.unlink(missing_ok=True)
        to.write_text(json.dumps(vars(outcome)), "utf-8")
        return outcome


def key_of(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def codes(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def without_codes(code: CodeType) -> tuple[Any, ...]:
    constants = [None if isinstance(constant, CodeType) else repr(constant) for constant in code.co_consts]
    return constants, code.co_code, code.co_names, code.co_varnames, code.co_freevars  # type: ignore[return-value]


class ColdTests:
    """forked_tests.py's, by a process that was forked before mempool was imported."""

    def __init__(self) -> None:
        asked, self._ask = os.pipe()
        self._answers, answer = os.pipe()
        if os.fork() == 0:
            os.close(self._ask)
            try:
                for line in iterate_lines(asked):
                    outcome = forked_tests.run(line["tests"], limit=line["limit"])
                    os.write(answer, (json.dumps(vars(outcome)) + "\n").encode())
            finally:
                os._exit(0)
        self._lines = iterate_lines(self._answers)

    def run(self, tests: Sequence[str], *, limit: float) -> Outcome:
        os.write(self._ask, (json.dumps({"tests": list(tests), "limit": limit}) + "\n").encode())
        return Outcome(**next(self._lines))


def iterate_lines(descriptor: int) -> Iterator[Any]:
    with open(descriptor, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
