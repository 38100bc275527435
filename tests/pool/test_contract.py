"""The contract, kept: by plain objects and by buffers. Each promise is a test in mempool.testing.contract."""

from typing import Any

import pytest

from mempool import Buffers
from mempool.sources.source import Source
from mempool.testing.contract import PoolContract


class TestObjects(PoolContract):
    """Plain objects."""


@pytest.mark.filterwarnings("ignore:.*a buffer was dropped:ResourceWarning")  # many tests end with elements out
class TestBuffers(PoolContract):
    """Memory that is really there."""

    def make_elements(self) -> Source[Any]:
        return Buffers(4096)
