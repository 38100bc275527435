"""Every public call, and every way in which it can go wrong, each ready to be made: for sweeps and for counting.

    for name, prepared in CALLS.items():
        scene = prepared.scene()
        call = prepared(scene)      # all that memory is needed for beforehand
        call()                      # what is under test; an error that belongs to it is caught in it
        scene.end()                 # gives back what is known to be out, and looks

What a call gets it puts into `scene.got`, or `scene.made`, which have their places already, so that nothing is lost on the
way there. test_every_call.py looks that none is missing.
"""

import calls_in_tasks
import calls_of_buffers
import calls_of_keepers
import calls_of_linux
import calls_of_many_leases
import calls_of_memory
import calls_of_sources
import calls_that_alloc
import calls_that_begin_and_end
import calls_that_free_and_resize
import pytest
from scenes import CALLS, Broken, NotRaised, Prepared, Scene, in_a_task

#: Each of these writes its calls down in CALLS.
MODULES = (
    calls_that_begin_and_end,
    calls_that_alloc,
    calls_in_tasks,
    calls_that_free_and_resize,
    calls_of_many_leases,
    calls_of_buffers,
    calls_of_sources,
    calls_of_memory,
    calls_of_linux,
    calls_of_keepers,
)

#: Their names, for pytest.
EACH_CALL = [pytest.param(name, marks=[pytest.mark.stress] * prepared.is_long) for name, prepared in CALLS.items()]

__all__ = ["CALLS", "EACH_CALL", "Broken", "NotRaised", "Prepared", "Scene", "in_a_task"]
