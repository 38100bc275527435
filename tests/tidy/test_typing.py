"""Type checkers see what a user expects: `typed/` under mypy --strict and pyright; and the stub says what is there.

Part of `make check`, whose tools it needs.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mempool import Buffer, Lease

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CODE = HERE / "typed" / "user_code.py"

#: By line, what `# T:` demands.
DEMANDED = {
    number: line.partition("# T: ")[2].strip()
    for number, line in enumerate(CODE.read_text("utf-8").splitlines(), 1)
    if "# T: " in line and "reveal_type(" in line
}


def plain(name: str) -> str:
    """A revealed type without the modules, the same from both checkers."""
    name = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", name).replace("memoryview[Any]", "memoryview[int]")
    parts = re.fullmatch(r"(\w+) \| None|None \| (\w+)", name)
    return f"{parts[1] or parts[2]} | None" if parts else name


def tool(name: str) -> str:
    """Where it is installed: beside this Python, or on the PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; `make check` installs it")
    return found


@pytest.mark.once
def test_mypy_reveals_what_is_demanded() -> None:
    """mypy --strict finds no error in a user's code, and each type is the one that stands beside it."""
    done = subprocess.run(
        [
            tool("mypy"), "--strict", "--cache-dir", os.devnull, "--python-executable", sys.executable, "--config-file", "",
            "--always-false", "compiled", str(CODE),
        ],
        capture_output=True, text=True, check=False, timeout=300, cwd=HERE,
    )  # fmt: skip
    found = re.findall(r'^.*?:(\d+): note: Revealed type is "(.*)"$', done.stdout, re.MULTILINE)
    assert {int(line): plain(name) for line, name in found} == DEMANDED
    assert " error: " not in done.stdout, done.stdout


@pytest.mark.once
def test_pyright_reveals_what_is_demanded() -> None:
    """The same for pyright."""
    done = subprocess.run(
        [tool("pyright"), "--outputjson", "--pythonpath", sys.executable, str(CODE)],
        capture_output=True, text=True, check=False, timeout=300, cwd=HERE,
    )  # fmt: skip
    said = json.loads(done.stdout)["generalDiagnostics"]
    found = {}
    for one in said:
        revealed = re.fullmatch(r'Type of ".*" is "(.*)"', one["message"], re.DOTALL)
        if revealed is not None:
            found[one["range"]["start"]["line"] + 1] = plain(revealed[1])
    assert found == DEMANDED
    assert [one["message"] for one in said if one["severity"] == "error"] == []


def test_the_stub_of_a_lease_says_what_is_there() -> None:
    """lease.pyi has the public members of Lease, no more and no fewer."""
    stub = (ROOT / "src" / "mempool" / "lease.pyi").read_text("utf-8")
    body = stub.partition("class Lease(")[2].partition("\ndef ")[0]
    told = set(re.findall(r"^    (?:async )?def (\w+)\(", body, re.MULTILINE))
    there = {
        name
        for name, member in vars(Lease).items()
        if (not name.startswith("_") or name in told)
        and (callable(member) or inspect.isdatadescriptor(member) or name in told)
    }
    assert there - told == set()
    assert {name for name in told if not hasattr(Lease, name)} == set()


def test_a_lease_and_its_element_can_be_named_in_annotations() -> None:
    """`Lease[Buffer]` is no error at run time."""
    assert Lease[Buffer].__args__ == (Buffer,)
