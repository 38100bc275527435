"""Each adaptor around a source, and all of them around each other: by name, as a function of the source."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

from mempool import Fallback, Faulty, Limited, Logged, OnFailure, Translated

WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "Limited": lambda source: Limited(source, elements_max=3),
    "Logged": lambda source: Logged(source, to=os.devnull),
    "Faulty": Faulty,
    "OnFailure": lambda source: OnFailure(source, gc.collect),
    "Translated": lambda source: Translated(source, OSError),
    "Fallback": lambda source: Fallback(source, source),
    "all": lambda source: Limited(OnFailure(Faulty(Fallback(source, source)), gc.collect), elements_max=9),
}
