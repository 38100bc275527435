# cython: language_level=3
"""The ends that every call must come to, whatever is raised. Compiled, a call of these needs no memory for its frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mempool._core import _cython as cython
else:
    try:
        import cython
    except ModuleNotFoundError:
        from mempool._core import _cython as cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.decisions import Decisions
    from mempool._core.transfer import Transfer


@cython.cclass
class Ends:
    """The base of Returning, which has the rest."""

    core: Decisions
    fills: dict[Transfer, int]  # those under way, and the ident of their thread

    def __init__(self, core: Decisions) -> None:
        self.core = core
        self.fills = {}

    def cancel(self, transfer: Transfer) -> None:
        """Take back what this transfer holds, whatever state they are in. May be done again."""
        # A def so deep that its frame finds no memory would lose what the transfer hold: hence compiled, and the second try.
        step: Any = self
        try:
            step.undo_call(transfer)
        except BaseException as error:  # an interrupt; or some small object of our own could not be had
            step.undo_call(transfer, again=True)
            if not isinstance(error, MemoryError):
                raise

    def end_fill(self, fill: Transfer, *, forget: bool = True) -> None:
        """However it ends: an interrupt here, too, must not leave behind that it were under way."""
        try:
            self.core.end_fill(fill)
        except BaseException as error:
            self.core.end_fill(fill)
            if not isinstance(error, MemoryError):
                raise
        finally:
            if forget:
                self.fills.pop(fill, None)
