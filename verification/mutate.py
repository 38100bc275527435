"""`make mutate`: bugs planted by a machine in the library; how many do the tests notice?

cosmic-ray changes one operator, number, comparison, keyword or decorator at a time, in a copy of the tree, and the tests
run there on the uncompiled core. A mutant that they pass has survived: survivors.md says of each why it makes no difference,
or a test is added that kills it: in tests/models/test_decisions.py, or in the file of its subject.

First each file of tests runs once, and is recorded: which test runs which lines, and how long it takes. For a mutant those
tests run which run its line, in forks (forked_tests.py): first those of the files that have noticed most mutants of the same
file, and of these the fastest; until one fails, or all have passed. `--enough` bounds how long, as recorded. A test that
fails must pass without the mutant in the same minute, or it is struck out.

With `--warm` the tests are collected once, and a mutant is put into the functions of a fork (warm_tests.py): that is about a
tenth of the cost. Only what is changed outside of functions is still imported anew.

There are some thousands, so they are drawn by `--seed`, of every file in turns, and of a file one of each place first: a run
that is ended by `--seconds` has tried as many of the one as of the other. build/mutants keeps the copy of the tree, the
record and the journal; `--resume` goes on. Left out are annotations, what is only for type checkers, `==` for `is` and back,
and the branches for C. These are tried by `--compiled`: there, the core is compiled again for each mutant. Those that
survivors.md tells are not tried, unless `--told`.
Status 1 if less than `--least` of those that may make a difference were noticed, or a survivor is not told in survivors.md.
"""

from __future__ import annotations

import argparse
import ast
import collections
import difflib
import itertools
import json
import os
import pickle
import random
import shutil
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery
from cosmic_ray.commands.init import _operators
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.work_item import MutationSpec

from verification import forked_tests
from verification.planted import TREE, compile_core, copy_tree
from verification.warm_tests import ColdTests, Swaps, WarmTests, with_tests

SURVIVORS = Path(__file__).with_name("survivors.md")
STATE = TREE / "build" / "mutants"
#: Folders and files of tests that are not asked: those of the tree and its pages; and those that stop at each bytecode of
#: every public call, or at each allocation, and take minutes.
NOT_RECORDED = {"docs", "tidy"}
NOT_RECORDED |= {"test_interrupts.py", "test_leaks.py", "test_out_of_memory.py", "test_stress.py"}
#: Folders of the package that have mutants, beside the package's own files.
MUTATED = ("_core", "adapters", "cli", "export", "fleet", "local", "shared", "sources", "testing", "watch")
#: Not tried: `==` for `is`, and back. They differ where a type says what its equals are, and for numbers beyond 256, which
#: hardly a test of a pool has; which of the two is right is a linter's business.
SAME = ("Eq_Is", "Is_Eq", "NotEq_IsNot", "IsNot_NotEq")
#: Seconds: what the slowest test may take to be recorded, and a file of tests.
TEST_SECONDS_MAX = 8
FILE_SECONDS_MAX = 300
#: What a mutant's first fork runs, its second ...: tests of how many files; of each for how many seconds, as recorded.
AT_A_TIME = ((1, 0.5), (4, 0.5), (None, 2.0), (None, FILE_SECONDS_MAX))
#: Seconds that a fork may take beside three times the tests' own.
TO_SPARE = 5.0
#: Called by compiled code only: the hash table of outstanding elements, the gates of the fast path, the quick way to wait.
COMPILED_ONLY = {"first_slot", "add_pointer", "remove_pointer", "set_gates", "is_thread_alone", "obtained", "stand"}


def modules() -> list[Path]:
    """As paths in a tree: every worker has a tree of its own."""
    package = Path("src/mempool")
    folders = [package, *(package / name for name in MUTATED)]
    paths = [path for folder in folders for path in sorted(folder.glob("*.py")) if not path.name.startswith("__")]
    return [path for path in paths if path.name != "_cython.py"]


Spans = list[tuple[tuple[int, int], tuple[int, int]]]


def spans_of(source: str) -> tuple[Spans, Spans]:
    """What only the compiled core executes, and what neither does, as ((line, column), (end line, end column))."""
    for_c: Spans = []
    for_nobody: Spans = []

    def note(spans: Spans, *nodes: Any) -> None:
        there = [node for node in nodes if node is not None]
        spans.extend(((n.lineno, max(0, n.col_offset - 1)), (n.end_lineno, n.end_col_offset)) for n in there)  # with the @

    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.If(test=test, body=body, orelse=orelse):
                condition = ast.unparse(test)
                if condition == "cython.compiled" or condition.startswith("cython.compiled and"):
                    note(for_nobody, test if condition == "cython.compiled" else None)
                    note(for_c, test, *body)
                elif condition in {"not cython.compiled", "not TYPE_CHECKING"}:
                    note(for_nobody, test)
                    note(for_c, *orelse)
                elif condition == "TYPE_CHECKING":
                    note(for_nobody, test, *body)
            case ast.AnnAssign(annotation=annotation):
                note(for_nobody, annotation)
            case ast.arg(annotation=annotation):
                note(for_nobody, annotation)
            case ast.Call(func=ast.Attribute(attr="make_room"), args=arguments):
                note(for_c, *arguments)  # a dict makes its own room
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                # Cython's decorators do nothing uncompiled, and are no code but declarations compiled.
                note(for_nobody, *[d for d in node.decorator_list if "cython" in ast.unparse(d)])
                note(for_nobody, getattr(node, "returns", None))
                note(for_c, node if node.name in COMPILED_ONLY else None)
    return for_c, for_nobody


def mutants(compiled: bool) -> Iterator[MutationSpec]:
    """All that make a difference to what the uncompiled core executes; or to what only the compiled core does."""
    for module in modules():
        text = module.read_text("utf-8")
        for_c, for_nobody = spans_of(text)
        nodes = list(ast_nodes(get_ast(text)))
        for operator_name, arguments, operator in _operators({}):
            if operator_name.endswith(SAME):
                continue
            places = ((node, *place) for node in nodes for place in operator.mutation_positions(node))
            for occurrence, (node, begin, end) in enumerate(places):
                if is_in(for_nobody, begin) or is_in(for_c, begin) != compiled:
                    continue
                name = ASTQuery(node).get_definition_name()
                yield MutationSpec(module, operator_name, occurrence, begin, end, arguments, name)


def is_in(spans: Spans, place: tuple[int, int]) -> bool:
    return any(begin <= place < end for begin, end in spans)


def all_mutants(compiled: bool, cache: Path) -> list[MutationSpec]:
    if not cache.exists():
        cache.write_bytes(pickle.dumps(list(mutants(compiled))))
    return list(pickle.loads(cache.read_bytes()))


def key_of(mutation: MutationSpec) -> str:
    """A mutant in few words, which stay the same while the code does."""
    return f"[{mutation.module_path} {mutation.operator_name} {mutation.operator_args} {mutation.occurrence}]"


class Sources:
    """The sound text of each module, and that of its mutants."""

    def __init__(self) -> None:
        self.sound: dict[Path, str] = {}
        self.trees: dict[Path, bytes] = {}

    def mutated(self, mutation: MutationSpec) -> str:
        path = mutation.module_path
        if path not in self.trees:
            self.sound[path] = path.read_text("utf-8")
            self.trees[path] = pickle.dumps(get_ast(self.sound[path]))  # to read this takes less than to parse anew
        operator = cosmic_ray.plugins.get_operator(mutation.operator_name)(**(mutation.operator_args or {}))
        return str(MutationVisitor(mutation.occurrence, operator).walk(pickle.loads(self.trees[path])).get_code())

    def name_of(self, mutation: MutationSpec, mutated: str) -> str:
        """A mutant in one line, which stays the same when lines are added elsewhere."""
        lines = list(
            difflib.ndiff(*cut_to_what_differs(self.sound[mutation.module_path].splitlines(), mutated.splitlines()))
        )
        before = " ".join(line[1:].strip() for line in lines if line[0] == "-")
        after = " ".join(line[1:].strip() for line in lines if line[0] == "+")
        return f"{mutation.module_path.name} {mutation.definition_name}: `{before}` -> `{after}`"


def cut_to_what_differs(one: list[str], other: list[str]) -> tuple[list[str], list[str]]:
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return one, other


class Reach:
    """Which tests run a line, as recorded."""

    def __init__(self, record: Path) -> None:
        self.mutated = {str(path.relative_to("src")) for path in modules()}
        self.seconds: dict[str, float] = {}
        self.tests: dict[tuple[str, int], set[str]] = {}
        #: Of a module and a file of tests: the lines that these run there. Tests that are about it run the most.
        self.known: dict[tuple[Path, str], set[int]] = {}
        self.scopes: dict[Path, list[ast.AST]] = {}
        for path in sorted(record.glob("*.json")):
            outcome = forked_tests.Outcome(**json.loads(path.read_text("utf-8")))
            for test in outcome.lines.keys() - set(outcome.failed):
                if outcome.seconds.get(test, TEST_SECONDS_MAX) < TEST_SECONDS_MAX:
                    self._add(test, outcome.seconds[test], outcome.lines[test])

    def _add(self, test: str, seconds: float, lines: dict[str, list[int]]) -> None:
        self.seconds[test] = seconds
        for file in self.mutated & lines.keys():
            self.known.setdefault((Path("src", file), test.partition("::")[0]), set()).update(lines[file])
            for number in lines[file]:
                self.tests.setdefault((f"src/{file}", number), set()).add(test)

    def strike_out(self, test: str) -> None:
        for tests in self.tests.values():
            tests.discard(test)

    def of(self, mutation: MutationSpec, sound: str) -> set[str]:
        """The tests that run the mutant's line; else, where it runs when the module is imported, of what is around it."""
        path, line = mutation.module_path, mutation.start_pos[0]
        if path not in self.scopes:
            self.scopes[path] = [node for node in ast.walk(ast.parse(sound)) if hasattr(node, "lineno")]
        around: list[Any] = [node for node in self.scopes[path] if node.lineno <= line <= node.end_lineno]  # type: ignore[attr-defined]
        statements = sorted(
            (node for node in around if isinstance(node, ast.stmt | ast.ExceptHandler)),
            key=lambda node: node.end_lineno - node.lineno,
        )
        spans = [(line, line), *((node.lineno, line) for node in statements[:1])]
        spans += [(node.lineno, node.end_lineno) for node in statements]
        for first, last in [*spans, (1, 100_000)]:
            tests = {
                test for number in range(first, min(last, 5000) + 1) for test in self.tests.get((str(path), number), ())
            }
            if tests:
                return tests
        runs_when_called = any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in around)
        return set() if runs_when_called else set(self.seconds)


class Experience:
    """Of the mutants of each file, which files of tests were asked, and which noticed one."""

    def __init__(self) -> None:
        self.asked: collections.Counter[tuple[Path, str]] = collections.Counter()
        self.noticed: collections.Counter[tuple[Path, str]] = collections.Counter()

    def rounds(self, mutated: Path, tests: set[str], reach: Reach, enough: float) -> Iterator[list[str]]:
        """The tests, some at a time: the likeliest files first, and of each file those that notice most, and the fastest."""
        seconds = reach.seconds
        files: dict[str, list[str]] = {}
        for test in sorted(tests, key=lambda test: (-self.noticed[mutated, test], seconds[test], test)):
            files.setdefault(test.partition("::")[0], []).append(test)

        def promise(file: str) -> tuple[float, int]:
            return (self.noticed[mutated, file] + 1) / (self.asked[mutated, file] + 2), len(
                reach.known.get((mutated, file), ())
            )

        spent = 0.0
        for at_once, share in AT_A_TIME:
            batch = []
            for file in sorted(files, key=promise, reverse=True)[:at_once]:
                some, files[file] = split(files[file], seconds, min(share, enough))
                batch += some
            batch, _ = split(batch, seconds, enough - spent)
            if batch:
                spent += sum(seconds[test] for test in batch)
                yield batch


def split(tests: list[str], seconds: dict[str, float], share: float) -> tuple[list[str], list[str]]:
    """The first of these tests that take no longer than `share` together, or one alone; and the others."""
    ends = itertools.accumulate(seconds[test] for test in tests)
    number = max(share > 0, sum(end <= share for end in ends))
    return tests[:number], tests[number:]


class Worker:
    """Tries mutants, one after another, in a tree of its own, which is the working directory."""

    def __init__(self, chosen: argparse.Namespace, journal: Path, reach: Reach) -> None:
        self.chosen = chosen
        self.journal = journal
        self.parent = os.getppid()
        self.told = SURVIVORS.read_text("utf-8")
        self.sources = Sources()
        self.reach = reach
        self.experience = Experience()
        self.reliable: set[str] = set()

    def limit(self, tests: list[str]) -> float:
        return float(self.chosen.patience * (TO_SPARE + 3 * sum(self.reach.seconds[test] for test in tests)))

    def passes(self, tests: list[str]) -> str | None:
        """None, or which of these tests failed: what ended their process, if it is not known."""
        failed = self.run(tests, self.limit(tests)).failed
        return failed[0] if failed else None

    def run(self, tests: list[str], limit: float) -> forked_tests.Outcome:
        return forked_tests.run(tests, limit=limit)

    def put_in(self, mutation: MutationSpec, text: str) -> None:
        """The text is in its file now; is there more to be done?"""

    def take_out(self) -> None:
        """The sound text is in its file again."""

    def try_(self, mutation: MutationSpec) -> dict[str, Any]:
        path = mutation.module_path
        text = self.sources.mutated(mutation)
        entry = {"key": key_of(mutation), "file": str(path), "name": self.sources.name_of(mutation, text)}
        if entry["name"] in self.told and not self.chosen.told:
            return entry | {"outcome": "told"}
        if not is_python(text):
            return entry | {"outcome": "killed", "by": "Python's grammar"}
        times = path.stat()
        path.write_text(text, "utf-8")
        self.put_in(mutation, text)
        try:
            if self.chosen.compiled and not compile_core(Path()):
                return entry | {"outcome": "killed", "by": "the compiler"}
            return entry | self.judge(mutation)
        finally:
            path.write_text(self.sources.sound[path], "utf-8")
            self.take_out()
            if not self.chosen.compiled:  # its bytecode is still good
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def judge(self, mutation: MutationSpec) -> dict[str, Any]:
        path = mutation.module_path
        tests = self.reach.of(mutation, self.sources.sound[path])
        if not tests:
            return {"outcome": "survived", "by": "no test runs it"}
        for batch in self.experience.rounds(path, tests, self.reach, self.chosen.enough):
            failed = self.passes(batch)
            self.experience.asked.update((path, file) for file in {test.partition("::")[0] for test in batch})
            if failed is not None:
                self.experience.noticed.update({(path, failed), (path, failed.partition("::")[0])})
                return {"outcome": "killed", "by": failed, "batch": batch}
        return {"outcome": "survived"}

    def go(self, mutations: list[MutationSpec], until: float) -> None:
        for mutation in mutations:
            if time.monotonic() > until or os.getppid() != self.parent:
                return
            began = time.monotonic()
            entry = self.try_(mutation)
            while not self.is_sound(entry):
                entry = self.try_(mutation)
            entry.pop("batch", None)
            with self.journal.open("a") as journal:
                journal.write(json.dumps(entry | {"seconds": round(time.monotonic() - began, 2)}) + "\n")
            say("." if entry["outcome"] != "survived" else f"\nsurvived: {entry['name']} {entry['key']}\n", end="")

    def is_sound(self, entry: dict[str, Any]) -> bool:
        """Whether what noticed the mutant passes without it. If not, it is asked no more."""
        failed, batch = entry.get("by"), entry.get("batch")
        if batch is None or failed in self.reliable:
            return True
        if self.chosen.compiled:
            compile_core(Path())
        fails = self.passes([failed] if failed in batch else batch)
        if fails is None:
            if failed in batch:  # and not what ended their process, which may be another thing the next time
                self.reliable.add(str(failed))
            return True
        for test in batch if fails not in batch else [fails]:
            say(f"\nstruck out, since it fails without a mutant: {test}")
            self.reach.strike_out(test)
        return False


class WarmWorker(Worker):
    """One that has the tests collected already, and puts a mutant into the functions of a fork (warm_tests.py)."""

    def __init__(self, chosen: argparse.Namespace, journal: Path, reach: Reach, warm: WarmTests, cold: ColdTests) -> None:
        super().__init__(chosen, journal, reach)
        self.warm, self.cold = warm, cold
        self.swaps: Swaps | None = []

    def run(self, tests: list[str], limit: float) -> forked_tests.Outcome:
        return self.cold.run(tests, limit=limit) if self.swaps is None else self.warm.run(tests, self.swaps, limit=limit)

    def put_in(self, mutation: MutationSpec, text: str) -> None:
        self.swaps = self.warm.swaps(mutation.module_path, self.sources.sound[mutation.module_path], text)

    def take_out(self) -> None:
        self.swaps = []


#: Of the process as it began: pytest captures what is printed later.
STDOUT = os.fdopen(os.dup(1), "w")


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=STDOUT, flush=True)


def is_python(text: str) -> bool:
    try:
        compile(text, "a mutant", "exec")
    except SyntaxError:
        return False
    return True


def record(paths: list[Path], patience: int) -> None:
    parent = os.getppid()
    for path in paths:
        if os.getppid() != parent:
            return
        to = STATE / "record" / f"{path.stem}.json"
        if not to.exists():
            began = time.monotonic()
            outcome = forked_tests.run([str(path)], recording=True, limit=patience * FILE_SECONDS_MAX)
            to.write_text(json.dumps(vars(outcome)), "utf-8")
            failed = f"; not asked: {', '.join(outcome.failed)}" if outcome.failed else ""
            print(f"recorded {path}: {len(outcome.lines)} tests, {time.monotonic() - began:.1f} s{failed}", flush=True)


def recorded_files(parts: str) -> list[Path]:
    files = [path for path in sorted(Path("tests").rglob("test_*.py")) if not NOT_RECORDED & set(path.parts)]
    return [path for path in files if any(part in str(path) for part in parts.split(","))]


def try_warmly(chosen: argparse.Namespace, journal: Path, files: list[Path], number: int, mine: list[MutationSpec]) -> None:
    cold = ColdTests()

    def work(warm: WarmTests) -> None:
        parent = os.getppid()
        records = {path: STATE / "record" / f"{path.stem}.json" for path in files}
        for path in files[number :: chosen.jobs]:
            if not records[path].exists():
                began = time.monotonic()
                outcome = warm.record(str(path), records[path], chosen.patience * chosen.file_seconds)
                failed = f"; not asked: {', '.join(outcome.failed)}" if outcome.failed else ""
                say(f"recorded {path}: {len(outcome.lines)} tests, {time.monotonic() - began:.1f} s{failed}")
        while not all(record.exists() for record in records.values()) and os.getppid() == parent:
            time.sleep(0.5)  # the other workers record theirs
        WarmWorker(chosen, journal, Reach(STATE / "record"), warm, cold).go(mine, chosen.until)

    with_tests([str(path) for path in files], work)


def in_turns(everything: list[MutationSpec], chosen: argparse.Namespace) -> list[MutationSpec]:
    """As many of each file as are to be tried, drawn by the seed: one of every file, then the next of every file ...

    Of each file one of each place comes first, since what one place's dozen of mutants show is mostly the same.
    """
    draw = random.Random(chosen.seed)
    files: dict[Path, list[MutationSpec]] = {}
    for mutation in everything:
        files.setdefault(mutation.module_path, []).append(mutation)
    columns = [by_places(draw.sample(of_one, len(of_one)))[: chosen.each or None] for of_one in files.values()]
    return [mutation for row in itertools.zip_longest(*columns) for mutation in row if mutation is not None]


def by_places(drawn: list[MutationSpec]) -> list[MutationSpec]:
    before: collections.Counter[tuple[int, int]] = collections.Counter()
    ranks = []
    for mutation in drawn:
        ranks.append(before[mutation.start_pos])
        before[mutation.start_pos] += 1
    return [mutation for _, mutation in sorted(zip(ranks, drawn, strict=True), key=lambda pair: pair[0])]


def entries(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text("utf-8").splitlines()] if journal.exists() else []


def in_trees(jobs: int, work: Any) -> None:
    """Do `work(number)` in as many processes, each in a copy of the tree."""
    pids = []
    for number in range(jobs):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        tree = STATE / f"tree-{number}"
        shutil.copytree(
            STATE / "tree", tree, dirs_exist_ok=True
        )  # undoes a mutant that was cut short, and keeps the bytecode
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree / "src")
        status = 1
        try:
            work(number)
            status = 0
        except Exception:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            os._exit(status)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    if any(statuses):
        raise RuntimeError("a worker failed")


def options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m verification.mutate", description=__doc__)
    options.add_argument("--each", type=int, default=6, help="how many mutants of every file (%(default)s); 0: all")
    options.add_argument("--seed", type=int, default=1, help="by which they are drawn (%(default)s)")
    options.add_argument("--only", default="", help="parts of the modules' names, with commas (all)")
    options.add_argument(
        "--resume", action="store_true", help="go on with the copy, the record and the journal of the last run"
    )
    options.add_argument("--warm", action="store_true", help="put a mutant into a process that has imported all")
    options.add_argument("--tests", default="", help="parts of the names of files of tests, with commas: no others (all)")
    options.add_argument("--again", action="store_true", help="those that survived the last run, with the tree of today")
    options.add_argument("--told", action="store_true", help="those as well that survivors.md tells")
    options.add_argument("--compiled", action="store_true", help="those that only the compiled core executes")
    options.add_argument(
        "--enough", type=float, default=60, help="seconds of tests, as recorded, for a mutant (%(default)s)"
    )
    options.add_argument("--least", type=float, default=0.9, help="of the sample, to be noticed (%(default)s)")
    options.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after so many")
    options.add_argument(
        "--file-seconds", type=float, default=FILE_SECONDS_MAX, help="of a file of tests, to be recorded (%(default)s)"
    )
    options.add_argument("--patience", type=int, default=1, help="times the limits of time, on a busy machine (%(default)s)")
    options.add_argument("--jobs", type=int, default=1, help="how many at a time (%(default)s)")
    return options


def main() -> int:
    chosen = options().parse_args()
    chosen.until = time.monotonic() + chosen.seconds
    journal = STATE / ("journal-compiled.jsonl" if chosen.compiled else "journal.jsonl")
    survivors = {entry["key"] for entry in entries(journal) if entry["outcome"] == "survived"} if chosen.again else set()
    if not chosen.resume:
        shutil.rmtree(STATE, ignore_errors=True)
    if not STATE.exists():
        (STATE / "record").mkdir(parents=True)
        (STATE / "tree" / "build").mkdir(parents=True)
        copy_tree(STATE / "tree")
        for compiled in Path(sysconfig.get_paths()["platlib"], "mempool", "shared").glob("_engine.*"):
            shutil.copy(compiled, STATE / "tree" / "src" / "mempool" / "shared")  # without it there is no SharedPool
        with (STATE / "tree" / "tests" / "conftest.py").open("a") as conftest:
            conftest.write(forked_tests.NO_SHRINKING)
    os.environ.update(MEMPOOL_PURE="1")
    os.environ.pop("MEMPOOL_REQUIRE_COMPILED", None)
    forked_tests.prepare()
    os.chdir(STATE / "tree")
    files = recorded_files(chosen.tests)
    if not chosen.warm:
        in_trees(chosen.jobs, lambda number: record(files[number :: chosen.jobs], chosen.patience))
    everything = [
        mutation
        for mutation in all_mutants(chosen.compiled, journal.with_suffix(".mutants"))
        if any(part in str(mutation.module_path) for part in chosen.only.split(","))
    ]
    if chosen.again:
        everything = [mutation for mutation in everything if key_of(mutation) in survivors]
    sample = in_turns(everything, chosen)
    done = {entry["key"] for entry in entries(journal)}
    left = [mutation for mutation in sample if key_of(mutation) not in done]

    def work(number: int) -> None:
        if chosen.warm:
            try_warmly(chosen, journal, files, number, left[number :: chosen.jobs])
            return
        if chosen.compiled:
            os.environ.update(MEMPOOL_PURE="0", MEMPOOL_REQUIRE_COMPILED="1")
            compile_core(Path())
        Worker(chosen, journal, Reach(STATE / "record")).go(left[number :: chosen.jobs], chosen.until)

    in_trees(chosen.jobs, work)
    keys = {key_of(mutation) for mutation in sample}
    return report([entry for entry in entries(journal) if entry["key"] in keys], everything, chosen.least)


def report(tried: list[dict[str, Any]], everything: list[MutationSpec], least: float) -> int:
    of_file = collections.Counter(str(mutation.module_path) for mutation in everything)
    counts = collections.Counter((entry["file"], entry["outcome"]) for entry in tried)
    hung = collections.Counter(entry["file"] for entry in tried if entry.get("by") == "hung")
    row = "{:<42} {:>7} {:>6} {:>7} {:>6} {:>6} {:>6}"
    print("\n" + row.format("file", "mutants", "tried", "killed", "(hung)", "alike", "open"))
    for file, many in [*sorted(of_file.items()), ("all", 0)]:
        of = [(f, o, n) for (f, o), n in counts.items() if file in {f, "all"}]
        killed, alike, open_ = (sum(n for _, o, n in of if o == outcome) for outcome in ("killed", "told", "survived"))
        hanging = hung[file] if many else hung.total()
        print(
            row.format(
                file.removeprefix("src/mempool/"),
                many or len(everything),
                killed + alike + open_,
                killed,
                hanging,
                alike,
                open_,
            )
        )
    ratio = killed / (killed + open_) if killed + open_ else 0.0
    print(f"\n{ratio:.1%} of those that matter were killed; {SURVIVORS.name} says of {alike} why they make no difference")
    return 1 if ratio < least or open_ else 0


if __name__ == "__main__":
    sys.exit(main())
