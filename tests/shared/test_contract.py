"""What every pool promises, promised by a shared one: callers are threads and tasks of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from scripted_memory import ScriptedPool, Slots

from mempool.testing import ScriptedSource, Step
from mempool.testing.contract import PoolContract


@pytest.mark.filterwarnings("ignore:.*a buffer was dropped:ResourceWarning")  # many tests end with elements out
class TestSharedPool(PoolContract):
    @pytest.fixture(autouse=True)
    def _folder(self, pool_path: Path) -> None:
        self.folder = pool_path.parent

    def make_source(self, *script: Any, otherwise: Any = Step.WORKS) -> ScriptedSource[Any]:
        self.slots = Slots()
        return ScriptedSource(*script, otherwise=otherwise, source=self.slots)

    def make_pool(self, source: ScriptedSource[Any], reserve: int, **options: Any) -> Any:
        return ScriptedPool(self.folder, source, self.slots, reserve, **options)
