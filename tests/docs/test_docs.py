"""The documentation is true: its code runs and prints what it says, and nothing that is public is missing from it."""

from __future__ import annotations

import code
import importlib
import importlib.util
import os
import re
import runpy
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from sweeps import LONG

import mempool

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
REFERENCE = "\n".join(page.read_text("utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
PUBLIC_MODULES = (
    "mempool",
    "mempool.export",
    "mempool.fleet",
    *(["mempool.fleet.dask"] if importlib.util.find_spec("distributed") else []),
    "mempool.linux",
    "mempool.maintenance",
    "mempool.parking",
    "mempool.pressure",
    "mempool.registry",
    "mempool.sources",
    "mempool.testing",
    "mempool.watch",
)
#: What a page may need and a user may not have: the page's code is skipped from there on.
OPTIONAL = (
    "numpy",
    "fastapi",
    "redis",
    "sqlalchemy",
    "urllib3",
    "pyarrow",
    "torch",
    "trio",
    "opentelemetry",
    "distributed",
    "prometheus_client",
    "click",
    "rich",
)

# Installed, pytest loads it by itself; from a bare source tree it is named.
LOADED = any(metadata.entry_points(group="pytest11", name="mempool"))
PLUGIN = [] if LOADED else ["-p", "mempool.testing.plugin"]

Block = tuple[str, str, int]  # its title or "", its code, its line


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    found = re.finditer(r"^```python(?: title=\"(.*?)\")?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(match[1] or "", match[2], text.count("\n", 0, match.start(2))) for match in found]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# -- code -----------------------------------------------------------------------------------------------------------


def agree(printed: str, said: str) -> bool:
    """`...` in what a page says stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, said.split("..."))), printed) is not None


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """Where shared pools lie."""
    with tempfile.TemporaryDirectory(
        prefix="mempool-test-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    ) as made:
        yield Path(made)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_the_code_of_a_page_runs_and_prints_what_it_says(
    page: Path, tmp_path: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks of a page are one program, in a folder of its own. Each print has its output beside it, or below: `# >`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMPOOL_SHARED_FOLDER", str(shared_folder))  # a page may name a pool as somebody else does
    names: dict[str, object] = {"__name__": "page"}
    for title, source, line in blocks(page):
        if title.startswith("test_"):
            continue  # the next test's
        capsys.readouterr()
        try:
            # Lines are counted as in the page, so that a traceback leads there.
            exec(compile("\n" * line + source, page, "exec", dont_inherit=True), names)
        except ModuleNotFoundError as missing:
            if missing.name not in OPTIONAL:
                raise
            pytest.skip(f"{name_of(page)} goes on with {missing.name}, which is not installed")
        printed = capsys.readouterr().out.splitlines()
        said = [a or b for a, b in re.findall(r"^ *(?:print\(.*\)  # (.*)|# > (.*))$", source, re.MULTILINE)]
        assert len(printed) == len(said), (printed, said)
        assert [(p, s) for p, s in zip(printed, said, strict=True) if not agree(p, s)] == []


def test_the_tutorial_can_be_pasted_into_the_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line by line, as CPython 3.11's prompt takes it: an empty line ends a block, and only that."""
    monkeypatch.chdir(tmp_path)
    prompt = code.InteractiveConsole({"__name__": "__console__"})
    for _, pasted, line in blocks(DOCS / "tutorial.md"):
        for number, typed in enumerate([*pasted.splitlines(), ""], line):
            prompt.push(typed)
            told = capsys.readouterr()
            assert told.err == "", (number + 1, typed)
        assert not prompt.buffer, "the block has not ended"
    assert prompt.locals["pool"].closed


TESTS = {page: tests for page in PAGES if (tests := [block for block in blocks(page) if block[0].startswith("test_")])}


@pytest.mark.long_on_both
@pytest.mark.parametrize("page", TESTS, ids=name_of)
def test_the_tests_shown_on_a_page_pass(page: Path, tmp_path: Path) -> None:
    """Run by pytest, as its reader would. Each file has some that pass."""
    for title, source, _ in TESTS[page]:
        assert not (tmp_path / title).exists()
        (tmp_path / title).write_text(source, "utf-8")
    # One promise of the contract has 243 parameters; and those who wait are threads, tasks of asyncio and of uvloop.
    of_them = [] if LONG else ["-k", "not accounts_are_exact and not task and not uvloop"]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *PLUGIN, *of_them, str(tmp_path)]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    passed = set(re.findall(r"^(test_\w+\.py)::.* PASSED", told.stdout, re.MULTILINE))
    assert passed == {title for title, _, _ in TESTS[page]}


def test_the_readme_is_read_in_ten_minutes() -> None:
    """At most 120 lines; each reason for a pool names the command that shows it, and that command is there."""
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.splitlines()) <= 120
    table = readme.partition("| reason | shown by | read |")[2].partition("\n\n")[0]
    shown = [row.split(" | ")[1].strip("`") for row in table.splitlines()[2:]]
    assert len(shown) >= 7
    made = {f"make {target}" for target in re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)}
    for command in shown:
        words = command.removeprefix(".venv/bin/").split()
        assert command in made or words[0] == "mempool" or (words[0] == "python" and (ROOT / words[1]).exists()), command


# -- nothing is missing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    """By its docstring (`::: module.name`), or, as a constant, in words."""
    names = set(importlib.import_module(module).__all__)
    if module != "mempool":
        names -= set(mempool.__all__)  # told once
    missing = [
        n for n in sorted(names) if not re.search(rf"^::: {module}\.{n}$|`(?:{module}\.)?{n}`", REFERENCE, re.MULTILINE)
    ]
    assert missing == []


def test_the_reference_of_the_pool_begins_with_alloc_and_leaves_nothing_out() -> None:
    """The page lists its members in an order of its own, so a new one has to be put into it."""
    page = (DOCS / "reference" / "pool.md").read_text("utf-8")
    listed = re.findall(r"^        - (\w+)$", page, re.MULTILINE)
    public = {name for name in dir(mempool.Pool) if not name.startswith("_")} - {"core"}
    assert listed[0] == "alloc"
    assert sorted(listed) == sorted(public | {"name"})


def test_the_list_at_the_head_of_the_reference_names_each_member_once() -> None:
    """It is written by hand, for who reads the page where nothing is generated; each name leads to its section."""
    page = (DOCS / "reference" / "pool.md").read_text("utf-8")
    head, _, generated = page.partition("::: ")
    listed = re.findall(r"^- \[`(\w+)`\]\(#mempool\.(Pool\.)?(\w+)\): \S", head, re.MULTILINE)
    assert [name for name, _, target in listed if name != target] == []
    members = [name for name, of_pool, _ in listed if of_pool]
    assert members[0] == "alloc"
    assert sorted(members) == sorted(re.findall(r"^        - (\w+)$", generated, re.MULTILINE))
    values = re.findall(r"^::: mempool\.([A-Z]\w+)$", page, re.MULTILINE)
    assert ["Pool", *(name for name, of_pool, _ in listed if not of_pool)] == values


def test_the_page_of_examples_lists_each_of_them() -> None:
    """With its file's name; `tests/docs/test_examples.py` runs them."""
    page = (DOCS / "examples.md").read_text("utf-8")
    assert sorted(re.findall(r"^\| `(examples/.*?)`", page, re.MULTILINE)) == sorted(
        str(file.relative_to(ROOT)) for file in (ROOT / "examples").glob("*.py")
    )


def test_every_error_says_what_it_means_why_it_happens_and_what_to_do() -> None:
    """Each has a section of the page of errors, with these parts."""
    page = (DOCS / "reference" / "errors.md").read_text("utf-8")
    sections = dict(re.findall(r"^::: mempool\.(\w+)\n(.*?)(?=^::: |^## |\Z)", page, re.DOTALL | re.MULTILINE))
    errors = [n for n in mempool.__all__ if isinstance(e := getattr(mempool, n), type) and issubclass(e, Exception)]
    assert sorted(sections) == sorted(errors)
    incomplete = [
        n for n in errors if n != "PoolError" and not re.search(r"\*Why\.\* .*\*What to do\.\* ", sections[n], re.DOTALL)
    ]
    assert incomplete == []


def test_every_command_is_in_the_reference() -> None:
    """With each of its options."""
    pytest.importorskip("click")
    pytest.importorskip("rich")
    from mempool.cli.app import mempool as group

    page = (DOCS / "reference" / "command-line.md").read_text("utf-8")
    for name, command in group.commands.items():
        section = re.search(rf"^## `mempool {name}`$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        assert section is not None, f"mempool {name}"
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert [option for option in options if f"`{option}" not in section[1]] == [], name


def test_every_extra_for_a_user_is_on_the_page_of_installing() -> None:
    """Those for who works on mempool itself are in CONTRIBUTING.md's commands, which install them."""
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    listed = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "install.md").read_text("utf-8"), re.MULTILINE))
    assert extras - listed == {"torch", "coverage", "verify", "mutate", "site", "check", "dev"}


# -- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md", *PAGES], ids=name_of)
def test_a_link_leads_somewhere(page: Path) -> None:
    """Every relative link and picture is a file that exists. (`make docs` looks at the anchors, too.)"""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_file_that_is_named_exists(page: Path) -> None:
    """Examples, tests and the like, named as `folder/file`."""
    named = re.findall(r"`((?:examples|tests|verification|benchmarks|docs|src)/[\w./-]+)`", page.read_text("utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


# -- pictures -------------------------------------------------------------------------------------------------------


def test_the_time_lines_are_those_that_their_script_draws() -> None:
    """`python docs/img/timelines.py` writes them."""
    told = runpy.run_path(str(DOCS / "img" / "timelines.py"))
    drawn = {f"{name}.svg": told["draw"](race) for name, race in told["RACES"].items()}
    assert {name: (DOCS / "img" / name).read_text("utf-8") for name in drawn} == drawn


def test_the_words_beside_a_picture_say_its_numbers() -> None:
    """A picture that is drawn again has other figures, and so has its alternative text."""
    for page in PAGES:
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+\.svg)\)", page.read_text("utf-8")):
            picture = (page.parent / target).read_text("utf-8")
            assert [number for number in re.findall(r"\d[\d,.]{2,}\d", words) if number not in picture] == [], target


def test_the_demo_is_drawn_as_its_terminal_shows_it_at_the_end() -> None:
    """Lines that were wiped or written over are gone, and nothing else."""
    pytest.importorskip("rich")
    last_screen = runpy.run_path(str(DOCS / "img" / "demo.py"))["last_screen"]
    up, wipe = "\x1b[1A", "\x1b[2K"
    assert last_screen(f"\x1b[?25lone\ntwo\r{wipe}{up}{wipe}first\nsecond\n") == "first\nsecond\n"
