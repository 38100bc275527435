"""The benchmarks run and print; how fast anything is, is not asserted anywhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=TREE, capture_output=True, text=True, timeout=60, check=False)


def test_a_quick_run_prints_ratios_beside_their_targets(tmp_path: Path) -> None:
    """`--json` writes the same figures: median, spread and verdict."""
    figures = tmp_path / "figures.json"
    done = run("asynchronous", "--quick", "--json", str(figures))
    assert done.returncode == 0, done.stderr
    assert "await alloc_async + free" in done.stdout
    assert "at most 0.8 x" in done.stdout
    assert "targets: " in done.stdout
    written = json.loads(figures.read_text("utf-8"))
    assert written["machine"]["core"] in done.stdout
    for row in written["rows"]:
        assert row["lowest"] <= row["figure"] <= row["highest"]
    assert written["rows"][0]["verdict"] in ("met", "missed")


def test_a_group_that_does_not_exist_is_an_error_that_names_those_that_do() -> None:
    done = run("nonsense")
    assert done.returncode == 2
    assert "uncontended, asynchronous, contended, resize, memory" in done.stderr


def test_a_peer_that_is_not_installed_is_named_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TREE))
    monkeypatch.setitem(sys.modules, "object_pool", None)  # import then fails as if it were not there
    from benchmarks import peers

    found = peers.find(peers.of_object_pool)
    assert isinstance(found, peers.Missing)
    assert "object_pool" in found.why
