"""Uncompiled, where there is always the GIL: nothing. See mutex.pxd, which is what the compiled modules read."""

from __future__ import annotations

from typing import Any, TypeAlias

WITHOUT_GIL = False
atomic_int: TypeAlias = int  # noqa: PYI042 - as in the .pxd
atomic_ssize: TypeAlias = int  # noqa: PYI042 - as above
Link: TypeAlias = Any


def hold(_decisions: object) -> None:
    """Keep all others out."""


def release(_decisions: object) -> None:
    """Let them in."""


def link_in(_decisions: object) -> None:
    """Let a fork know of its mutex."""


def link_out(_decisions: object) -> None:
    """It ends."""


def hold_links() -> None:
    """Hold the mutexes of all pools."""


def release_links() -> None:
    """Let go of them."""


def renew_links() -> None:
    """In a child: nobody holds them."""


def renew_lock(_thing: object) -> None:
    """In a child: nobody holds it."""
