"""Sizes in words: from a user, and for a message. Imports next to nothing: `mempool top` loads it without the pools."""

from __future__ import annotations

import operator
import re

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DECIMAL_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"\s*(\d+)(?:\.(\d+))?\s*([a-z]*)\s*\Z", re.IGNORECASE)


def parse_size(size: int | str) -> int:
    """Bytes from a number or from words: 65536, "64 KiB", "1.5 MiB", "1 GB" (KB, MB, GB are powers of ten).

    Raises ValueError or TypeError for anything that is not a whole number of bytes, at least one.
    """
    if isinstance(size, str):
        match = _SIZE.match(size)
        unit = match[3].lower() if match else "?"
        factor = _DECIMAL_UNITS.get(unit) or _UNITS.get(unit.removesuffix("ib"))
        if match is None or factor is None:
            raise ValueError(f'a size is a number of bytes or words such as "64 KiB" or "1.5 MiB", not {size!r}')
        decimals = match[2] or ""
        parts = int(match[1] + decimals) * factor
        one: int = 10 ** len(decimals)
        if parts % one:
            raise ValueError(f"a size is a whole number of bytes, {size!r} is {parts // one} and a part of one")
        size = parts // one
    else:
        try:
            size = operator.index(size)
        except TypeError:
            raise TypeError(f'a size is a number of bytes or words such as "64 KiB", not {size!r}') from None
    if size < 1:
        raise ValueError(f"a size is at least one byte, not {size}")
    return size


def in_words(size: int) -> str:
    """A size for a person: "1 GiB", "1.5 KiB", "100 bytes"."""
    if size < 1024:
        return "1 byte" if size == 1 else f"{size} bytes"
    if size >= 1 << 60:  # what a user has got wrong, and more than a float may hold
        return f"{size >> 40:,} TiB"
    amount, unit = float(size), ""
    for unit in ("KiB", "MiB", "GiB", "TiB"):  # noqa: B007 - the last one is used below
        amount /= 1024
        if amount < 1023.95:  # else 1024 KiB, which are 1 MiB
            break
    return f"{amount:.1f} {unit}".replace(".0 ", " ")


def compared(size: int, other: int) -> tuple[str, str]:
    """Two sizes for one message: in bytes where their words would be the same, and the sizes are not."""
    if size != other and in_words(size) == in_words(other):
        return f"{size} bytes", f"{other} bytes"
    return in_words(size), in_words(other)
