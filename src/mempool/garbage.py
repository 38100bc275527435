"""One look for garbage before a caller gives up: what was dropped in a reference cycle is out until the collector finds it.

The collector holds the GIL while it works, so another thread's loop stands still as well; hence no more than a tenth of
the time is spent so, whoever asks.
"""

from __future__ import annotations

import gc
import time

#: Seconds. Who waits for less than this does not look: a caller that polls would do nothing else.
WAIT_MIN = 0.05
#: Seconds after which a caller that waits on has a look.
LOOK_AFTER = 1.0
#: How many times as long as a look took, there is none after it.
REST_FACTOR = 9

_rest_until = float("-inf")


def look() -> bool:
    """Collect garbage, unless that was done just now or the program has turned the collector off. Whether it was done."""
    global _rest_until  # noqa: PLW0603 - of the process, as the collector is
    began = time.monotonic()
    if began < _rest_until or not gc.isenabled():
        return False
    gc.collect()
    ended = time.monotonic()
    _rest_until = ended + REST_FACTOR * (ended - began)
    return True
