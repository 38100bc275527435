"""What keeps the tree tidy: names with a meaning and a type, files of one room, tests that do not sleep, no stale core."""

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import mempool

TREE = Path(__file__).resolve().parent.parent.parent
SOURCES = TREE / "src"
INSTALLED = Path(mempool.__file__).parent
LINES_MAX = 800
READABLE = ("*.py", "*.pyi", "*.pxd", "*.md", "*.toml", "*.yml", "*.cfg", "*.pml", "Makefile", "run")
# Public beside `mempool` itself; each joins the promise once it exists.
PUBLIC_MODULES = [
    name
    for name in (
        "mempool",
        "mempool.linux",
        "mempool.testing",
        "mempool.sources",
        "mempool.errors",
        "mempool.registry",
        "mempool.fleet",
        "mempool.maintenance",
        "mempool.pressure",
    )
    if importlib.util.find_spec(name) is not None and hasattr(importlib.import_module(name), "__all__")
]
PUBLIC = [(module, name) for module in PUBLIC_MODULES for name in importlib.import_module(module).__all__]

Definition = ast.FunctionDef | ast.AsyncFunctionDef


# -- reading the source: a compiled function has neither signature nor annotations ----------------------------------


def source_of(module: str) -> Path:
    found = importlib.util.find_spec(module)
    assert found is not None, module
    assert found.origin is not None, module
    origin = Path(found.origin)
    return origin if origin.suffix == ".py" else origin.with_name(origin.name.split(".")[0] + ".py")


def statements(body: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """Each block that runs when the module is imported, those under `if` and `try` too."""
    yield body
    for statement in body:
        if isinstance(statement, ast.If | ast.Try):
            for field in ("body", "orelse", "finalbody"):
                yield from statements(getattr(statement, field, []))
            for handler in getattr(statement, "handlers", []):
                yield from statements(handler.body)


def find(module: str, name: str) -> tuple[str, ast.stmt, ast.stmt | None]:
    """The statement that makes a public name, wherever it was imported from; with its module and the statement after it."""
    path = source_of(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for block in statements(ast.parse(path.read_text("utf-8")).body):
        for statement, following in zip(block, [*block[1:], None], strict=True):
            match statement:
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() if statement.name == name:
                    if "overload" not in decorators(statement):
                        return module, statement, following
                case ast.AnnAssign(target=ast.Name(id=found)) if found == name:
                    return module, statement, following
                case ast.Assign(targets=targets) if any(isinstance(t, ast.Name) and t.id == name for t in targets):
                    return module, statement, following
                case ast.ImportFrom(module=origin, names=names, level=level):
                    for alias in names:
                        if (alias.asname or alias.name) == name:
                            start = importlib.util.resolve_name("." * level + (origin or ""), package)
                            if importlib.util.find_spec(f"{start}.{alias.name}") if is_package(start) else None:
                                return f"{start}.{alias.name}", statement, following
                            return find(start, alias.name)
    raise LookupError(f"{module}.{name} is promised in __all__ and made nowhere")


def is_package(module: str) -> bool:
    return source_of(module).name == "__init__.py"


def decorators(definition: Definition | ast.ClassDef) -> set[str]:
    return {ast.unparse(d).split("(")[0].rpartition(".")[2] for d in definition.decorator_list}


def public_methods(definition: ast.ClassDef) -> Iterator[Definition]:
    for statement in definition.body:
        if isinstance(statement, Definition) and (not statement.name.startswith("_") or statement.name == "__init__"):
            yield statement


def untyped(definition: Definition) -> list[str]:
    taken = definition.args
    arguments = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, *filter(None, (taken.vararg, taken.kwarg))]
    missing = [a.arg for a in arguments if a.annotation is None and a.arg not in {"self", "cls"}]
    return missing + ([] if definition.returns is not None else ["return"])


# -- what is promised -----------------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda part: part)
def test_a_public_name_has_a_docstring(module: str, name: str) -> None:
    """A name in `__all__` is a promise: it, and each public method of it, says what it means."""
    where, statement, following = find(module, name)
    if isinstance(statement, ast.ImportFrom):  # a module
        assert ast.get_docstring(ast.parse(source_of(where).read_text("utf-8"))), where
    elif isinstance(statement, ast.ClassDef | Definition):
        assert ast.get_docstring(statement), f"{where}.{name}"
        if isinstance(statement, ast.ClassDef):
            silent = [
                method.name
                for method in public_methods(statement)
                if method.name != "__init__"
                and not decorators(method) & {"overload", "override", "setter", "deleter"}
                and not ast.get_docstring(method)
            ]
            assert silent == [], f"{where}.{name}"
    else:
        line = source_of(where).read_text("utf-8").splitlines()
        said_below = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        said_beside = "#:" in line[statement.lineno - 1] + line[statement.lineno - 2]
        assert said_below or said_beside, f"{where}.{name}: a constant says what it is in a string below it or after '#:'"


@pytest.mark.once
@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda part: part)
def test_a_public_name_has_types(module: str, name: str) -> None:
    """Each argument and result of a public function or method is annotated."""
    where, statement, _ = find(module, name)
    if isinstance(statement, Definition):
        assert untyped(statement) == [], f"{where}.{name}"
    elif isinstance(statement, ast.ClassDef):
        lacking = {method.name: untyped(method) for method in public_methods(statement) if untyped(method)}
        assert lacking == {}, f"{where}.{name}"


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_a_promise_is_made_once_and_can_be_kept(module: str) -> None:
    """`__all__` names nothing twice and nothing that is not there."""
    loaded = importlib.import_module(module)
    assert len(loaded.__all__) == len(set(loaded.__all__))
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


def test_the_version_is_told_in_one_place() -> None:
    """What the package says of itself is what the installer was told."""
    assert mempool.__version__ == metadata.version("mempool")


# -- what is compiled -----------------------------------------------------------------------------------------------


def listed() -> list[str]:
    for statement in ast.parse((TREE / "setup.py").read_text("utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="COMPILED")], value=value):
                return sorted(ast.literal_eval(value))
    raise LookupError("setup.py lists no COMPILED")


def module_name(path: str) -> str:
    return path.removeprefix("src/").removesuffix(".py").replace("/", ".")


def says_it_is_compiled(path: Path) -> bool:
    for line in path.read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            return False
        if re.match(r"#\s*cython:", line):
            return True
    return False


def test_the_modules_that_say_they_are_compiled_are_those_that_are() -> None:
    """A `# cython:` line on top and a place in setup.py's COMPILED go together."""
    assert [str(p.relative_to(TREE)) for p in sorted(SOURCES.rglob("*.py")) if says_it_is_compiled(p)] == listed()


def test_the_modules_that_are_compiled_are_those_that_can_be_loaded_pure() -> None:
    """MEMPOOL_PURE=1 loads the source of each, or the core would be a mixture."""
    from mempool._core import COMPILED_MODULES

    assert sorted(COMPILED_MODULES) == sorted(module_name(path) for path in listed())


def test_the_core_that_was_asked_for_is_the_one_that_runs() -> None:
    """MEMPOOL_PURE=1 loads the source; MEMPOOL_REQUIRE_COMPILED=1 may not be served with it."""
    if os.environ.get("MEMPOOL_PURE", "0") not in {"", "0"}:
        assert mempool.IMPLEMENTATION == "pure"
    elif os.environ.get("MEMPOOL_REQUIRE_COMPILED", "0") not in {"", "0"}:
        assert mempool.IMPLEMENTATION == "compiled"


@pytest.mark.parametrize("path", listed())
def test_a_module_is_what_the_header_of_this_run_says(path: str) -> None:
    """The core is compiled or pure as a whole, never a mixture."""
    module = importlib.import_module(module_name(path))
    assert module.__file__ is not None
    assert (Path(module.__file__).suffix == ".py") == (mempool.IMPLEMENTATION == "pure")


@pytest.mark.parametrize("path", listed())
def test_a_compiled_module_is_newer_than_its_source(path: str) -> None:
    """A `.so` left over beside an edited `.py` would be tested in its place."""
    source = INSTALLED.parent / Path(path).relative_to("src")
    for binary in [*source.parent.glob(f"{source.stem}.*.so"), *source.parent.glob(f"{source.stem}.*.pyd")]:
        # An installer writes the two in any order, within a moment.
        assert binary.stat().st_mtime >= source.stat().st_mtime - 10, f"{binary} is older than {source}: build it again"


def test_what_is_tested_is_what_stands_in_the_tree() -> None:
    """The installed modules are those under src, and the benchmarks beside it, to the byte."""
    ours = {p.relative_to(SOURCES / "mempool"): p.read_bytes() for p in (SOURCES / "mempool").rglob("*.py")}
    ours |= {Path("benchmarks", p.name): p.read_bytes() for p in (TREE / "benchmarks").glob("*.py")}
    theirs = {p.relative_to(INSTALLED): p.read_bytes() for p in INSTALLED.rglob("*.py")}
    assert sorted(map(str, ours)) == sorted(map(str, theirs))
    assert [str(p) for p in ours if ours[p] != theirs[p]] == [], "install again: `make test` does"


# -- how it is written ----------------------------------------------------------------------------------------------


def python_files(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (TREE / folder).rglob("*.py") if "__pycache__" not in p.parts)


def test_no_file_is_longer_than_one_room() -> None:
    """A file of 800 lines wants to be two."""
    files = python_files("src", "tests", "benchmarks", "examples", "verification")
    lengths = {str(p.relative_to(TREE)): len(p.read_text("utf-8").splitlines()) for p in files}
    assert {name: lines for name, lines in lengths.items() if lines >= LINES_MAX} == {}


#: What several folders of tests share stands at the top of tests/: one file for each kind of thing, and no test.
SHARED_BY_TESTS = {
    "conftest",
    "books",
    "broken_sources",
    "callers",
    "children",
    "clocks",
    "elements",
    "exports",
    "folders",
    "notes",
    "sweeps",
    "tickets",
    "without_the_gil",
}
#: Of a file's name: how its tests came to be, which `git log` knows, in the place of what they are about.
HISTORY = re.compile(r"found_(by|at|in)|mutant|review|issue|regress|bug|misc|various|(^|_)(new|old|more)(_|$)")


def says_its_subject(path: Path) -> bool:
    """Whether a file of tests stands in the folder of its subject, and is named after what it is about."""
    if path.parent == TREE / "tests":
        return path.stem in SHARED_BY_TESTS
    return not HISTORY.search(path.stem)


def test_tests_are_found_by_their_subject() -> None:
    """Who changes a part of the pool looks for its tests in the folder and the file that are named after it."""
    assert [str(p.relative_to(TREE)) for p in python_files("tests") if not says_its_subject(p)] == []


@pytest.mark.parametrize(
    ("name", "is_fine"),
    [
        ("test_fork", False),
        ("helpers", False),
        ("danger/test_found_by_breaking", False),
        ("pool/test_mutants", False),
        ("line/test_review_2", False),
        ("line/test_issue_12", False),
        ("danger/test_fork", True),
        ("memory/test_fork_memory", True),
        ("sweeps", True),
    ],
)
def test_a_name_that_says_no_subject_is_refused(name: str, is_fine: bool) -> None:
    assert says_its_subject(TREE / "tests" / f"{name}.py") == is_fine


def test_tests_do_not_sleep() -> None:
    """They wait for a state; a line that must sleep says why after `# sleeps:`."""
    sleeping = re.compile(r"\btime\.sleep\(|from time import .*\bsleep\b|(?<![\w.])sleep\(")
    asleep = [
        f"{path.relative_to(TREE)}:{number}: {line.strip()}"
        for path in python_files("tests")
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if sleeping.search(line) and not re.search(r"# sleeps: \w", line)
    ]
    assert asleep == []


#: A count of bytes in the middle of a message: `mempool.sizes.in_words` says it as a person reads it.
RAW_BYTES = re.compile(r"""f["'].*\}\s*(bytes|kB|MB|GB)\b|/ 1e[69]:[^}]*\} [MG]B""")
#: Which count bytes as such: the functions that make words of sizes, the most that a path may have, a name of sysfs.
COUNTS_BYTES = {"sizes.py", "watch/server.py", "sources/levels.py"}


def test_a_message_tells_a_size_in_words() -> None:
    """1 GiB, and not 1,073,741,824 bytes; of two sizes that differ, `mempool.sizes.compared` makes words that differ."""
    assert RAW_BYTES.search('f"no room for {needed:,} bytes"')
    assert RAW_BYTES.search('f"{size / 1e6:,.1f} MB"')
    package = SOURCES / "mempool"
    raw = [
        f"{path.relative_to(package)}:{number}: {line.strip()}"
        for path in python_files("src")
        if path.relative_to(package).as_posix() not in COUNTS_BYTES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if RAW_BYTES.search(line)
    ]
    assert raw == []


def test_an_install_that_is_named_can_work() -> None:
    """mempool is on no index yet: it is installed from a clone, and what it needs by that project's own name."""
    hints = re.compile(r"pip install[^`\n]*")
    pages = [TREE / "README.md", TREE / "CONTRIBUTING.md", *(TREE / "docs").rglob("*.md")]
    cannot_work = [
        f"{path.relative_to(TREE)}: {hint}"
        for path in [*pages, *python_files("src", "benchmarks", "examples", "verification")]
        for hint in hints.findall(path.read_text("utf-8").replace("`pip install mempool` gets you nothing of ours", ""))
        if re.search(r"(?<![/\w])mempool(?![\w-])", hint)
    ]
    assert cannot_work == []


def test_make_says_nothing_at_a_terminal_but_what_was_asked(tmp_path: Path) -> None:
    """There, GNU find warns of options in an order that it does not like."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    ours, theirs = os.openpty()
    try:
        command = ["make", "-s", "print-python", f"PYTHON={sys.executable}", f"VENV={tmp_path}"]
        done = subprocess.run(command, cwd=TREE, stdin=theirs, capture_output=True, text=True, timeout=60, check=False)
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{sys.executable}\n", "")


def test_no_file_names_a_place_on_one_machine() -> None:
    """The project reads the same wherever it lies."""
    private = re.compile(r"(?<![\w./~$}-])/(?:home|root|Users|work)/\w")
    folders = [TREE / f for f in ("src", "tests", "benchmarks", "examples", "verification", "docs", ".ci", ".github")]
    files = {p for folder in folders for kind in READABLE for p in folder.rglob(kind)} | {
        p for kind in READABLE for p in TREE.glob(kind)
    }
    named = [str(p.relative_to(TREE)) for p in sorted(files) if p.is_file() and private.search(p.read_text("utf-8"))]
    assert named == []


def test_every_planted_bug_fits_the_code() -> None:
    """Those chosen by hand follow the code: each one's lines are there, once, and so is the test that catches it."""
    planted = pytest.importorskip("verification.planted", reason="the tests run without the rest of the tree")
    plants = planted.read_plants(planted.PAGE.read_text("utf-8"))
    assert {int(plant.title.split()[0]) for plant in plants} == set(range(1, 12))
    texts = {plant.file: (planted.TREE / plant.file).read_text("utf-8") for plant in plants}
    assert [plant.title for plant in plants if texts[plant.file].count(plant.sound) != 1] == []
