"""Tests that cannot be passed on a CPython without the GIL, each with what is in the way. conftest.py skips them there."""

from __future__ import annotations

import sys
import sysconfig

BUILT_WITHOUT = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
IS_OFF = not getattr(sys, "_is_gil_enabled", lambda: True)()

COLLECTOR = "CPython 3.13 without the GIL collects garbage later than at any allocation, whatever the threshold"
NO_MEMORY = "CPython 3.13 without the GIL crashes where set_nomemory fails an allocation, also with no mempool in it"
NO_FRAMES = "where RLIMIT_DATA leaves its allocator nothing, CPython 3.13 without the GIL returns NULL with no exception set"
NO_LIMIT = "mempool demo refuses to run there: each thread keeps what it has freed, so not all feel a limit on memory"
SHARED = "a SharedPool refuses to be used where the GIL is kept off: run its tests with PYTHON_GIL=1"
PURE = "starts the uncompiled core, which refuses to run without the GIL"

#: By the beginning of a test's name. A part of a name that is left out would excuse more than was looked at.
EXCUSED: dict[str, str] = {
    "tests/danger/test_finalizers.py::test_a_finalizer_may_call_the_pool_at_any_allocation": COLLECTOR,
    "tests/danger/test_out_of_memory.py": NO_MEMORY,
    "tests/watch/test_socket.py::test_an_answer_or_prepared_bytes_whatever_allocation_fails": NO_MEMORY,
    "tests/memory/test_pressure.py::test_elements_of_every_level_work_when_the_address_space_is_full": NO_FRAMES,
    "tests/cli/test_cli_demo.py::test_a_pool_that_does_not_do_it_ends_the_demo_with_status_1": NO_LIMIT,
    "tests/cli/test_cli_demo.py::test_a_child_that_dies_is_told_in_one_line": NO_LIMIT,
    "tests/cli/test_cli_demo.py::test_a_child_that_hangs_is_ended": NO_LIMIT,
    "tests/leases/test_cython_installed.py::test_the_uncompiled_core_uses_nothing_of_a_cython_that_is_installed": PURE,
}


def excuse(name: str) -> str | None:
    """Why this test is left out here; None: it is not."""
    if not IS_OFF:
        return None
    return next((why for begin, why in EXCUSED.items() if name.startswith(begin)), None)
