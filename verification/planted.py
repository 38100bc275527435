"""`python -m verification.planted`: a bug against each rule, planted in a copy; the test named beside it must fail.

The bugs and the tests are read from planted.md. Each test must pass on the sound copy first. A bug in what only the compiled
core has is compiled there (that needs Cython), and Python's memory is watched by its debug allocator; to crash is to fail.
Status 1 if a bug was missed, or no longer fits the code.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
PAGE = Path(__file__).with_name("planted.md")
SECTION = re.compile(
    r"^## (?P<title>.+?)\n.*?^In `(?P<file>[^`]+)`:\n\n```diff\n(?P<diff>.*?)```\n\nCaught by `(?P<test>[^`]+)`",
    re.MULTILINE | re.DOTALL,
)
ROW = "{:<58} {:>7}  {}"
#: Seconds. A planted bug often shows as a caller that waits for ever.
TEST_SECONDS = 20
ALL_SECONDS = 120


@dataclass(frozen=True)
class Plant:
    """One bug: which lines of a file it puts in place of which, and the test that must see it."""

    title: str
    file: str
    sound: str
    broken: str
    test: str

    @property
    def is_compiled(self) -> bool:
        return self.file.endswith(".pxd")

    def is_planted_in(self, tree: Path) -> bool:
        """Put the bug into this tree. False: the code is no longer what the bug was made for."""
        path = tree / self.file
        text = path.read_text("utf-8")
        if text.count(self.sound) != 1:
            return False
        path.write_text(text.replace(self.sound, self.broken), "utf-8")
        return True


def read_plants(page: str) -> list[Plant]:
    plants = []
    for section in SECTION.finditer(page):
        lines = section["diff"].splitlines(keepends=True)
        sound = "".join(line[1:] for line in lines if line[0] in " -")
        broken = "".join(line[1:] for line in lines if line[0] in " +")
        plants.append(Plant(section["title"], section["file"], sound, broken, section["test"]))
    if len(plants) != page.count("```diff"):
        raise ValueError(f"{PAGE.name}: {page.count('```diff')} bugs are told, {len(plants)} can be read")
    return plants


def copy_tree(scratch: Path) -> None:
    for folder in ("src", "tests"):
        shutil.copytree(TREE / folder, scratch / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c"))
    shutil.copy(TREE / "pyproject.toml", scratch)


def compile_core(tree: Path) -> bool:
    """Compile in place what has changed, and fast rather than well. False: it is no code that could be compiled."""
    build = [sys.executable, "-m", "Cython.Build.Cythonize", "-qi3", "-Xauto_pickle=False", "-Xbinding=False"]
    files = sorted((tree / "src").rglob("*.py"))
    sources = [str(path) for path in files if path.read_text("utf-8").startswith("# cython:")]
    environment = os.environ | {"CFLAGS": "-O0 -g0"}
    done = subprocess.run([*build, *sources], cwd=tree, env=environment, capture_output=True, check=False)
    return done.returncode == 0


def passes(tree: Path, test: str, compiled: bool = False) -> bool:
    """Whether this test passes with the core of this tree. One that hangs does not."""
    environment = os.environ | {"MEMPOOL_PURE": "1", "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("MEMPOOL_REQUIRE_COMPILED", None)
    if compiled:
        environment |= {"MEMPOOL_PURE": "0", "MEMPOOL_REQUIRE_COMPILED": "1", "PYTHONMALLOC": "debug"}
        if not compile_core(tree):
            raise RuntimeError(f"{test}: the core cannot be compiled; is Cython installed?")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}"]
    command.append("--timeout-method=thread")  # which ends the process, whatever it is stuck in
    try:
        done = subprocess.run(
            [*command, *test.split()],
            cwd=tree,
            env=environment,
            timeout=ALL_SECONDS,
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode < 0 and compiled:  # it crashed
        return False
    if done.returncode not in {0, 1}:  # no such test, or a tree that cannot be imported
        raise RuntimeError(f"{test}: pytest ended with status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def verdict(plant: Plant) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        copy_tree(tree)
        if not passes(tree, plant.test, plant.is_compiled):
            return "the test FAILS without it"
        if not plant.is_planted_in(tree):
            return "NO LONGER FITS the code"
        return "MISSED" if passes(tree, plant.test, plant.is_compiled) else "caught"


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m verification.planted", description=__doc__)
    options.add_argument("words", nargs="*", help="only bugs whose title contains one of these")
    chosen = options.parse_args()
    plants = [
        plant
        for plant in read_plants(PAGE.read_text("utf-8"))
        if not chosen.words or any(word in plant.title for word in chosen.words)
    ]
    began = time.monotonic()
    missed = 0
    print(ROW.format("planted", "seconds", "result"))
    for plant in plants:
        start = time.monotonic()
        result = verdict(plant)
        missed += result != "caught"
        print(ROW.format(plant.title, f"{time.monotonic() - start:.1f}", f"{result} by {plant.test}"), flush=True)
    print(f"{len(plants)} bugs planted, {len(plants) - missed} caught, in {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
