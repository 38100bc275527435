"""NamedTuple for what `mempool top` loads: typing's own, for whoever reads or checks the code, and collections' at run time.

Since CPython 3.14 a class of typing.NamedTuple whose annotations are text imports annotationlib, and that ast: 0.4 MiB, in a
program that people leave open. test_it_loads_few_modules sees it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["NamedTuple"]

if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from collections import namedtuple

    class _Making(type):
        """Of NamedTuple: each class that is derived from it becomes one of collections.namedtuple."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = list(body["__annotations__"])
            defaults = [body.pop(field) for field in fields if field in body]
            base = namedtuple(name, fields, defaults=defaults)  # noqa: PYI024 - see above
            return type(name, (base,), {"__slots__": (), **body})

    class NamedTuple(metaclass=_Making):
        """The base."""
