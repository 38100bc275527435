# cython: language_level=3
"""Calls of a socket that never block, for the thread that answers `mempool.watch`.

Python lets go of the GIL around each of them. Where other threads compute, having it back takes a turn of each: 5 ms and
more, and an answer needs four such calls. Compiled, they keep it: they do not block, and take a microsecond or a few.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython


def accept(listener: Any, inode: int) -> int:
    """The descriptor of whoever has connected. Raises OSError; MemoryError: there is a descriptor that nobody knows.

    inode: that of the listener. EBADF: somebody has closed it, and its number may be another file's.
    It does not block. Uncompiled it may, and the caller changes that.
    """
    if cython.compiled:
        fd: cython.longlong = mempool_accept(listener.fileno(), inode)  # type: ignore[name-defined]
        if fd < 0:
            raise OSError(-fd, os.strerror(-fd))
        return fd
    if os.fstat(listener.fileno()).st_ino != inode:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return int(listener._accept()[0])  # without a Python object around it, which fails where memory is short


def receive(connection: Any, piece: bytearray) -> int:
    """Receive into `piece`, without blocking. How many bytes; 0: no more come. Raises OSError."""
    if cython.compiled:
        size: cython.Py_ssize_t = len(piece)
        got: cython.longlong = mempool_receive(  # type: ignore[name-defined]
            connection.fileno(), cython.cast(cython.p_char, piece), size
        )
        if got < 0:
            raise OSError(-got, os.strerror(-got))
        return got
    return int(connection.recv_into(piece))


def send(connection: Any, data: bytes) -> int:
    """Send what has room, without blocking. How many bytes. Raises OSError."""
    if cython.compiled:
        size: cython.Py_ssize_t = len(data)
        sent: cython.longlong = mempool_send(  # type: ignore[name-defined]
            connection.fileno(), cython.cast(cython.p_char, data), size
        )
        if sent < 0:
            raise OSError(-sent, os.strerror(-sent))
        return sent
    return int(connection.send(data))
