"""The core: decides, never waits. Compiled where the install could compile it; `MEMPOOL_PURE=1` loads the source as it is.

state.py           what the pool knows, as one value
transfer.py        Transfer, what a call owns; Ticket, its place in the line
outstanding.py     which elements are out, by address
mirror.py          the memory of a page on which other processes read the numbers
sockets.py         calls of a socket that keep the GIL
base_decisions.py  the base of the decisions: how the state is read, how the line is served
decisions.py       the decisions, each one step
mutex.pxd          what makes a decision one step where there is no GIL
deciding.py        what makes a decision one step where the core is not compiled
ends.py            undoing a call, whatever was raised in it
queueing.py        a call that may have to wait
fast_path.py       alloc and free as users call them
(../lease.py, ../buffer.py, ../waiting.py and ../blocking.py are compiled, too.)
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

#: The compiled modules, in the order in which they need each other. setup.py lists the same.
COMPILED_MODULES = (
    "mempool._core.transfer",
    "mempool.buffer",
    "mempool._core.outstanding",
    "mempool._core.mirror",
    "mempool._core.sockets",
    "mempool._core.state",
    "mempool._core.base_decisions",
    "mempool._core.decisions",
    "mempool._core.ends",
    "mempool._core.queueing",
    "mempool.waiting",
    "mempool._core.fast_path",
    "mempool.blocking",
    "mempool.lease",
)


def _load_source(name: str) -> None:
    """Import a module from its .py although a compiled one lies beside it and would win."""
    path = Path(__file__).parent.parent.joinpath(*name.split(".")[1:]).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)


if os.environ.get("MEMPOOL_PURE", "") not in ("", "0"):
    for _name in COMPILED_MODULES:
        _load_source(_name)

from mempool._core.decisions import Decisions  # noqa: E402
from mempool._core.ends import Ends  # noqa: E402 - after the choice above
from mempool._core.fast_path import FastPath  # noqa: E402
from mempool._core.queueing import Queueing  # noqa: E402
from mempool._core.transfer import Ticket, Transfer  # noqa: E402

#: "compiled" or "pure": which life of the core this process runs.
IMPLEMENTATION = "pure" if str(sys.modules["mempool._core.decisions"].__file__).endswith(".py") else "compiled"
if IMPLEMENTATION == "pure" and os.environ.get("MEMPOOL_REQUIRE_COMPILED", "") not in ("", "0"):
    raise ImportError(
        "mempool: MEMPOOL_REQUIRE_COMPILED is set and the core is not compiled; install with a C compiler, or unset it"
    )
if IMPLEMENTATION == "pure" and not getattr(sys, "_is_gil_enabled", lambda: True)():
    # Uncompiled, references to its memory are taken for views of a buffer, and a new element is known by having one: without
    # the GIL other threads' references come and go meanwhile. `tests/danger/test_without_the_gil.py`
    raise ImportError(
        "mempool: the core is not compiled, and this Python runs without the GIL, on which the uncompiled core relies; "
        "install with a C compiler, or start Python with PYTHON_GIL=1"
    )

__all__ = ["IMPLEMENTATION", "Decisions", "Ends", "FastPath", "Queueing", "Ticket", "Transfer"]
