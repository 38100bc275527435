"""What can go wrong. Every message names the pool, the fact and the way out."""

from __future__ import annotations


class PoolError(Exception):
    """The base of the pool's own errors."""


class PoolTimeout(PoolError, TimeoutError):
    """The time given to a call ran out before it was served."""


class PoolClosed(PoolError):
    """The pool is closed and hands out nothing any more."""


class LineFull(PoolError):
    """As many callers as `max_waiting` allows stand in the line already."""


class DeadlockError(PoolError):
    """All elements are held by callers that wait, too, or by tasks whose event loop these stop."""


class DeadlockTimeout(DeadlockError, PoolTimeout):
    """A DeadlockError for a caller that gave a timeout: it could only run out."""


class DoubleFree(PoolError, ValueError):
    """An element was freed a second time."""


class UseAfterFree(PoolError, ValueError):
    """A buffer was used after it was freed."""


class PoisonError(PoolError):
    """A spare was written to while it lay in the pool: some code uses memory that it has freed."""


class StaleToken(PoolError, LookupError):
    """What this token stands for is not to be had any more: it was adopted, recalled or reclaimed, or is another's."""


class ForeignElement(PoolError, ValueError):
    """An element was given back that this pool has not handed out."""
