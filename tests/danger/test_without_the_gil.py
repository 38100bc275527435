"""Free-threaded Pythons: what is refused there, and what holds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def import_without_the_gil(**variables: str) -> subprocess.CompletedProcess[str]:
    """Import mempool in a child that runs without the GIL, or says so."""
    code = "import sys; sys._is_gil_enabled = lambda: False; import mempool; print(mempool.IMPLEMENTATION)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMPOOL_")} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_uncompiled_core_is_refused_without_the_gil() -> None:
    """It relies on the GIL; whoever runs without gets a sentence at once, and no wrong answer later."""
    done = import_without_the_gil(MEMPOOL_PURE="1")
    assert done.returncode == 1
    assert "ImportError: mempool: the core is not compiled, and this Python runs without the GIL" in done.stderr
    assert "PYTHON_GIL=1" in done.stderr


# -- the stress for such Pythons: `python -m verification.without_the_gil`


def stress(*arguments: str) -> int:
    """How many scenes failed."""
    module = pytest.importorskip("verification.without_the_gil", reason="the tests run without the rest of the tree")
    failed: int = module.main([*arguments])
    return failed


def test_each_scene_is_played_once_where_there_is_no_time_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    """On a machine that is busy enough, all of a scene's time is over before its threads have begun."""
    assert stress("0", "load-objects-identity-8", "frees-objects-identity", "releases-4096", "limited", "memory-64") == 0
    played = [line.split(": ") for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert len(played) > 5
    assert [name for name, times in played if int(times) == 0] == []


def test_a_scene_that_has_done_nothing_has_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that tested less than it says is told."""
    module = pytest.importorskip("verification.without_the_gil", reason="the tests run without the rest of the tree")
    monkeypatch.setattr(module, "scenes", lambda: iter([("idle", lambda _seconds: 0), ("busy", lambda _seconds: 1)]))
    assert stress("1") == 1
    assert "idle: FAILED: Fault: it was not played" in capsys.readouterr().out
