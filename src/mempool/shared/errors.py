"""What can go wrong between processes. Every message names the file, the fact and the way out."""

from __future__ import annotations

from mempool.errors import PoolError


class PoolCorrupt(PoolError):
    """The shared bytes say what cannot be: somebody else has written to the file. Nothing was changed by this call."""


class ClientGone(PoolError):
    """This process was taken for dead, or has detached, and what it had was given to others. Attach again."""


class PoolInUse(PoolError):
    """This can be done to a shared pool only while no process uses it. Nothing was changed."""
