"""`make mutate`: bugs planted by a machine in the core and what is around it; how many do the tests notice?

cosmic-ray changes one operator, number, comparison, keyword or decorator at a time, in a copy of the tree, and the tests
run there on the uncompiled core. A mutant that they pass has survived: survivors.md says of each why it makes no difference,
or a test is added that kills it: in tests/models/test_decisions.py, or in the file of its subject.

There are some thousands, a few seconds each, so a sample is drawn: `--sample` of them by `--seed`, the same each time; or
`--each` of every file, in turns, so that a run that is ended by `--seconds` has tried as many of the one as of the other.
Left out are annotations, what is only for type checkers, and the branches for C. Those are tried by `--compiled`: there,
the core is compiled again for each mutant.
Status 1 if less than `--least` of those that may make a difference were noticed, or a survivor is not told in survivors.md.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import multiprocessing
import os
import random
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.testing import run_tests
from cosmic_ray.work_item import MutationSpec, TestOutcome

from verification.planted import copy_tree

SURVIVORS = Path(__file__).with_name("survivors.md")
#: A part of `make test`: the fast ones that know the core. Most mutants do not outlive the first; the others are for those.
TESTS = (
    ("outstanding",),
    ("decisions",),
    (
        "surplus_of_a_grow",
        "kernel_defects",
        "contract.py::TestObjects",
        "between_two_bytecodes",
        "closing",
        "disposal",
        "elements",
        "free_list",
        "statistics",
        "numbers",
        "grow",
        "lowered_limit",
        "targets",
        "wakes",
        "lost_tasks",
        "one_interrupt",
        "patience",
        "signatures",
        "sources_that_fit",
        "handles",
        "leases",
        "free",
        "check_and_reset",
        "memory_lacks_once",
    ),
    (
        "one_line",
        "cancellation",
        "deadlock",
        "holders",
        "limited",
        "logged",
        "entering",
        "rescue",
        "lost_and_broken",
        "finalizers",
        "exit",
        "real_clock",
    ),
    (
        "buffers",
        "buffers_garbage",
        "broken_surroundings",
        "page.py::test_each_decision_has_a_sequence_number_of_its_own",
        "disposal_beside_a_loop",
        "adaptors",
        "loops",
        "model",
        "linearizable",
        "linux",
        "linux_alloc",
        "fork",
    ),
    ("in_the_middle", "interrupts", "out_of_memory"),
)
#: Seconds. A mutant that takes longer waits for ever. On a quiet machine no test takes two, and all those above together 60.
TEST_SECONDS_MAX = 8
SECONDS_MAX = 300
#: The environment of a process that tries mutants says so by how much these are multiplied.
PATIENCE = "MEMPOOL_MUTANTS_PATIENCE"
#: For each group. One that hangs in C holds the GIL, and pytest cannot end it.
GROUP_SECONDS_MAX = {"outstanding": 10, "decisions": 30}
#: For the conftest of the copies: a failure is enough, it need not be made small.
NO_SHRINKING = """
from hypothesis import Phase, settings
settings.register_profile("mutants", phases=[Phase.reuse, Phase.generate])
settings.load_profile("mutants")
"""
#: Called by compiled code only: the hash table of outstanding elements, and the gates of the fast path.
COMPILED_ONLY = {"first_slot", "add_pointer", "remove_pointer", "set_gates"}


def modules() -> list[Path]:
    """As paths in a tree: every worker has a tree of its own."""
    package = Path("src/mempool")
    core = [path for path in sorted((package / "_core").glob("*.py")) if path.name not in {"__init__.py", "_cython.py"}]
    return [
        *core,
        *(package / name for name in ("lease.py", "base_pool.py", "waiting.py")),
        *sorted((package / "local").glob("*.py")),
    ]


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
        for_c, for_nobody = spans_of(module.read_text("utf-8"))
        for item in _all_work_items([module], {}):
            for mutation in item.mutations:

                def is_in(spans: Spans, place: tuple[int, int] = mutation.start_pos) -> bool:
                    return any(begin <= place < end for begin, end in spans)

                if not is_in(for_nobody) and is_in(for_c) == compiled:
                    yield mutation


def key_of(mutation: MutationSpec) -> str:
    """A mutant in few words, which stay the same while the code does."""
    return f"[{mutation.module_path.name} {mutation.operator_name} {mutation.operator_args} {mutation.occurrence}]"


def name_of(mutation: MutationSpec, diff: str) -> str:
    """A mutant in one line, which stays the same when lines are added elsewhere."""
    lines = [line for line in diff.splitlines() if re.match(r"[-+](?![-+]{2} )", line)]
    before = " ".join(line[1:].strip() for line in lines if line[0] == "-")
    after = " ".join(line[1:].strip() for line in lines if line[0] == "+")
    return f"{mutation.module_path.name} {mutation.definition_name}: `{before}` -> `{after}`"


def move_to(scratch: str, compiled: bool, patience: int) -> None:
    """Make a tree for this process below `scratch`, and go there. Limits of time are multiplied by `patience`."""
    tree = Path(tempfile.mkdtemp(dir=scratch))
    copy_tree(tree)
    with (tree / "tests" / "conftest.py").open("a") as conftest:
        conftest.write(NO_SHRINKING)
    os.environ.update(MEMPOOL_PURE=str(int(not compiled)), PYTHONPATH=str(tree / "src"), CFLAGS="-O0 -g0")
    os.environ.pop("MEMPOOL_REQUIRE_COMPILED", None)
    os.environ[PATIENCE] = str(patience)
    os.chdir(tree)
    if compiled:
        os.environ["MEMPOOL_REQUIRE_COMPILED"] = "1"
        build = [sys.executable, "-m", "Cython.Build.Cythonize", "-qi3", "-Xauto_pickle=False", "-Xbinding=False"]
        sources = [path for path in modules() if path.read_text("utf-8").startswith("# cython:")]
        COMMANDS.append(shlex.join([*build, "src/mempool/buffer.py", *map(str, sources)]))
    pytest = (
        f"{sys.executable} -m pytest -qx -p no:cacheprovider --timeout={patience * TEST_SECONDS_MAX} --timeout-method=thread"
    )
    for names in TESTS:
        tests = " ".join(map(path_of, names))
        COMMANDS.append(f"timeout -s KILL {patience * GROUP_SECONDS_MAX.get(names[0], 120)} {pytest} {tests}")


def path_of(name: str) -> str:
    """Where the tests about a subject stand: "contract.py::TestObjects" is tests/pool/test_contract.py::TestObjects."""
    subject, _, part = name.partition("::")
    [path] = Path("tests").rglob(f"test_{subject.removesuffix('.py')}.py")
    return f"{path}::{part}" if part else str(path)


#: What decides about a mutant, in this process's tree: one after another, until one fails.
COMMANDS: list[str] = []


def seconds_max() -> int:
    return int(os.environ[PATIENCE]) * SECONDS_MAX


def command(module: Path = Path()) -> str:
    of_the_core = module.parent.name == "_core"
    return shlex.join(["sh", "-c", " && ".join(c for c in COMMANDS if of_the_core or "test_decisions" not in c)])


def outlives(mutation: MutationSpec) -> str | None:
    """The name of a mutant that passes the tests; None: one of them failed."""
    result = mutate_and_test([mutation], command(mutation.module_path), seconds_max())
    return name_of(mutation, result.diff or "") if result.test_outcome == TestOutcome.SURVIVED else None


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m verification.mutate", description=__doc__)
    options.add_argument("--sample", type=int, default=100, help="how many mutants (%(default)s); 0: all")
    options.add_argument("--each", type=int, default=0, help="how many mutants of every file; 0: as --sample says")
    options.add_argument("--seed", type=int, default=1, help="by which they are drawn (%(default)s)")
    options.add_argument("--only", default="", help="a part of the module's name")
    options.add_argument("--again", type=Path, help="only those that survived, as this output of a former run tells")
    options.add_argument("--compiled", action="store_true", help="those that only the compiled core executes")
    options.add_argument("--least", type=float, default=0.9, help="of the sample, to be noticed (%(default)s)")
    options.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after so many")
    options.add_argument("--patience", type=int, default=1, help="times the limits of time, on a busy machine (%(default)s)")
    options.add_argument("--jobs", type=int, default=1, help="how many at a time (%(default)s)")
    chosen = options.parse_args()
    if chosen.again:
        chosen.again = chosen.again.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        move_to(scratch, chosen.compiled, chosen.patience)
        outcome, said = run_tests(command(Path("_core/all")), seconds_max())
        if outcome != TestOutcome.SURVIVED:
            print(f"the tests fail without any mutant\n{said[-3000:]}")
            return 1
        everything = [mutation for mutation in mutants(chosen.compiled) if chosen.only in mutation.module_path.name]
        if chosen.again:
            output = chosen.again.read_text("utf-8")
            everything = [mutation for mutation in everything if key_of(mutation) in output]
        sample = drawn_from(everything, chosen)
        with multiprocessing.get_context("spawn").Pool(
            chosen.jobs, move_to, [scratch, chosen.compiled, chosen.patience]
        ) as workers:
            return judge(sample, workers.imap(outlives, sample), chosen, len(everything))


def drawn_from(everything: list[MutationSpec], chosen: argparse.Namespace) -> list[MutationSpec]:
    draw = random.Random(chosen.seed)
    if chosen.each:
        files: dict[Path, list[MutationSpec]] = {}
        for mutation in everything:
            files.setdefault(mutation.module_path, []).append(mutation)
        columns = [draw.sample(of_one, min(chosen.each, len(of_one))) for of_one in files.values()]
        return [mutation for row in itertools.zip_longest(*columns) for mutation in row if mutation is not None]
    return draw.sample(everything, min(chosen.sample, len(everything))) if chosen.sample else everything


def judge(sample: list[MutationSpec], outcomes: Iterator[str | None], chosen: argparse.Namespace, everything: int) -> int:
    told = SURVIVORS.read_text("utf-8")
    began = time.monotonic()
    killed = tried = alike = untold = 0
    for mutation, survivor in zip(sample, outcomes, strict=False):
        tried += 1
        if survivor is None:
            killed += 1
            print(end=".", flush=True)
        else:
            alike += survivor in told
            untold += survivor not in told
            is_told = "" if survivor in told else ", NOT TOLD in survivors.md"
            print(f"\nsurvived{is_told}: {survivor} {key_of(mutation)}", flush=True)
        if time.monotonic() - began > chosen.seconds:
            print(f"\nthe time is up: {len(sample) - tried} of the sample were not tried")
            break
    print()
    ratio = killed / (tried - alike) if tried > alike else 0.0
    drawn = f", drawn by seed {chosen.seed}" if chosen.sample or chosen.each else ""
    print(
        f"{killed} of {tried} mutants killed, of {everything}{drawn}, in "
        f"{time.monotonic() - began:.0f} s; {alike} survivors make no difference, as {SURVIVORS.name} says, {untold} are "
        f"not told there: {ratio:.1%} of those that matter were killed"
    )
    return 1 if ratio < chosen.least or untold else 0


if __name__ == "__main__":
    sys.exit(main())
