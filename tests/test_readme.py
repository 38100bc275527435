"""What the README says is true: its code runs, and the files it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_a_block_of_code_in_the_readme_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And prints what its last comment on a print says."""
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed == re.findall(r"print\(.*\)  # (.*)", block)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_a_link_leads_somewhere(page: str) -> None:
    """Every relative link names a file that exists."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^):]+)\)", text):
        assert (ROOT / target).exists(), target
