"""The header: which core these tests run on, and when it was built. And cheap collections of garbage."""

import gc
import itertools
from datetime import datetime
from pathlib import Path


def pytest_report_header() -> str:
    try:
        from mempool._core import IMPLEMENTATION, reserve
    except ImportError as failure:
        return f"mempool core: none, {failure}"
    loaded = Path(reserve.__file__)
    built = datetime.fromtimestamp(loaded.stat().st_mtime)  # noqa: DTZ006 - the reader's own clock
    return f"mempool core: {IMPLEMENTATION}, built {built:%H:%M} from {loaded}"


_finished = itertools.count(1)


def pytest_collection_finish() -> None:
    """What has been imported by now is no garbage: hundreds of tests collect, and need not look through it each time."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logfinish() -> None:
    """Nor are pytest's reports, which become many."""
    if next(_finished) % 50 == 0:
        gc.collect()
        gc.freeze()
