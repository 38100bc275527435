"""The seam is one: a second engine, under one lock, keeps the whole contract behind the same face."""

from __future__ import annotations

from typing import Any

import pytest
from plain_engine import PlainPool

from mempool.testing import ScriptedSource
from mempool.testing.contract import PoolContract

pytestmark = pytest.mark.long_on_both


class TestPlainEngine(PoolContract):
    def make_pool(self, source: ScriptedSource[Any], reserve: int, **options: Any) -> Any:
        return PlainPool(source, reserve, **options)
