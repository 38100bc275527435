"""Tests that cannot be passed on a CPython without the GIL, each with what is in the way. conftest.py skips them there."""

from __future__ import annotations

import sys
import sysconfig

BUILT_WITHOUT = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
IS_OFF = not getattr(sys, "_is_gil_enabled", lambda: True)()

COLLECTOR = "CPython 3.13 without the GIL collects garbage later than at any allocation, whatever the threshold"
NO_MEMORY = "CPython 3.13 without the GIL crashes where set_nomemory fails an allocation, also with no mempool in it"
# take_ownership in Python/frame.c: so a function that raises returns NULL with no exception. Without the GIL, what the
# collector knows has pages of its own, which are full sooner. A script of generators alone shows the NULL; where it comes
# from is read in CPython's source, not seen in a debugger.
NO_FRAMES = (
    "where there is no memory for a caller's frame object, CPython 3.13 clears the exception that is on its way there"
)
NO_LIMIT = "mempool demo refuses to run there: each thread keeps what it has freed, so not all feel a limit on memory"
NO_ADDRESSES = (
    "addresses that the interpreter's allocator has reserved, and not used, count for RLIMIT_AS, by which this runs short"
)
SHARED = "a SharedPool refuses to be used where the GIL is kept off: run its tests with PYTHON_GIL=1"
PURE = "starts the uncompiled core, which refuses to run without the GIL"

#: By the beginning of a test's name. A part of a name that is left out would excuse more than was looked at.
EXCUSED: dict[str, str] = {
    "tests/danger/test_finalizers.py::test_a_finalizer_may_call_the_pool_at_any_allocation": COLLECTOR,
    "tests/danger/test_out_of_memory.py": NO_MEMORY,
    "tests/watch/test_socket.py::test_an_answer_or_prepared_bytes_whatever_allocation_fails": NO_MEMORY,
    "tests/watch/test_the_socket_is_swept.py::test_whatever_allocation_fails_there": NO_MEMORY,
    "tests/memory/test_pressure.py::test_elements_of_every_level_work_when_the_address_space_is_full": NO_FRAMES,
    "tests/cli/test_cli_demo.py::test_a_pool_that_does_not_do_it_ends_the_demo_with_status_1": NO_LIMIT,
    "tests/cli/test_cli_demo.py::test_a_child_that_dies_is_told_in_one_line": NO_LIMIT,
    "tests/cli/test_cli_demo.py::test_a_child_that_hangs_is_ended": NO_LIMIT,
    "tests/cli/test_cli_demo.py::test_an_interrupt_ends_it_with_its_children": NO_LIMIT,
    # Of these two the files are the bad argument, which are looked at by the demo itself.
    "tests/cli/test_cli_demo.py::test_a_bad_argument_gets_one_clear_line_and_status_2[.]": NO_LIMIT,
    "tests/cli/test_cli_demo.py::test_more_files_than_digests_have_room_is_a_bad_argument": NO_LIMIT,
    "tests/watch/test_the_demo_is_steered.py::test_the_demo_is_seen_by_top_and_resized": NO_LIMIT,
    "tests/docs/test_examples.py::test_without_a_reserve_the_same_cache_dies": NO_ADDRESSES,
    "tests/shared/test_words.py::test_the_compiled_engine_has_the_same_constants": SHARED,
    "tests/docs/test_examples.py::test_frames_are_passed_on_while_workers_are_killed": SHARED,
    "tests/docs/test_examples.py::test_workers_of_a_torch_loader_fill_shared_buffers": SHARED,
    "tests/docs/test_examples.py::test_workers_of_an_executor_fill_shared_buffers": SHARED,
    "tests/docs/test_docs.py::test_the_code_of_a_page_runs_and_prints_what_it_says[README.md]": SHARED,
    # Its second half, where Dask is installed; what it leaves running then fails the next tests of a fleet.
    "tests/docs/test_docs.py::test_the_code_of_a_page_runs_and_prints_what_it_says[docs/how-to/resize-a-fleet.md]": SHARED,
    "tests/docs/test_docs.py::test_the_code_of_a_page_runs_and_prints_what_it_says[docs/how-to/survive-kill-9.md]": SHARED,
    "tests/docs/test_docs.py::test_the_code_of_a_page_runs_and_prints_what_it_says[docs/reference/shared.md]": SHARED,
    "tests/docs/test_docs.py::test_the_code_of_a_page_runs_and_prints_what_it_says[docs/tutorial-processes.md]": SHARED,
    "tests/leases/test_cython_installed.py::test_the_uncompiled_core_uses_nothing_of_a_cython_that_is_installed": PURE,
}


def excuse(name: str) -> str | None:
    """Why this test is left out here; None: it is not."""
    if not IS_OFF:
        return None
    return next((why for begin, why in EXCUSED.items() if name.startswith(begin)), None)
