"""Free-threaded Pythons: what is refused there, and what holds."""

from __future__ import annotations

import os
import subprocess
import sys


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
