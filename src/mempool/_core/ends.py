# cython: language_level=3
"""Ends: undoes a call, whatever was raised in it. Compiled, so that entering these methods needs no memory for a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.decisions import Decisions
    from mempool._core.transfer import Transfer


class Ends:
    """The base of Returning, which has the rest."""

    core: Decisions
    fills: dict[Transfer, int]  # those under way, and the ident of their thread

    def __init__(self, core: Decisions) -> None:
        self.core = core
        self.fills = {}

    def cancel(self, transfer: Transfer) -> None:
        """Return what this transfer holds, however far its call had come. May be done again."""
        # If a frame so deep in a call finds no memory, what the transfer holds is lost: hence compiled, and the second try.
        step: Any = self
        try:
            step.undo_call(transfer)
        except BaseException as error:  # an interrupt; or some small object of our own could not be had
            step.undo_call(transfer, again=True)
            if not isinstance(error, MemoryError):
                raise

    def end_fill(self, fill: Transfer, *, forget: bool = True) -> None:
        """Count this fill as over, however it ended. Tries twice, or an interrupt would leave it under way for ever."""
        try:
            self.core.end_fill(fill)
        except BaseException as error:
            self.core.end_fill(fill)
            if not isinstance(error, MemoryError):
                raise
        finally:
            if forget:
                self.fills.pop(fill, None)
