"""For mkdocs.yml: where Python's own types are told, and what the search lists first. Nothing is fetched for it."""

import json
from pathlib import Path
from typing import Any

PYTHON = "https://docs.python.org/3/library/"
#: Names that stand in signatures, by the page of Python's documentation that has them.
TOLD_AT = {
    "functions.html": ("bool", "float", "int", "object", "property"),
    "stdtypes.html": ("bytes", "dict", "frozenset", "list", "memoryview", "str", "tuple"),
    "exceptions.html": ("BaseException", "BufferError", "Exception", "MemoryError", "TimeoutError", "ValueError"),
    "constants.html": ("None",),
    "collections.abc.html": tuple(
        f"collections.abc.{name}"
        for name in ("AsyncIterator", "Awaitable", "Buffer", "Callable", "Iterable", "Iterator", "Mapping", "Sequence")
    ),
    "types.html": ("types.EllipsisType", "types.TracebackType"),
    "typing.html": ("typing.Any", "typing.Generic", "typing.Literal", "typing.Protocol", "typing.Self", "typing.TypeVar"),
    "logging.html": ("logging.Logger",),
    "threading.html": ("threading.Thread",),
}
#: Sections that a reader means who types one of their words: Material multiplies their score by this.
FIRST = {"mempool.Pool": 2, "mempool.Pool.alloc": 8, "mempool.Pool.lease": 4, "mempool.Pool.free": 4}


def on_pre_build(config: Any) -> None:
    """Tell mkdocs-autorefs the addresses of Python's types."""
    for page, names in TOLD_AT.items():
        for name in names:
            config.plugins["autorefs"].register_url(name, f"{PYTHON}{page}#{name}")


def on_post_build(config: Any) -> None:
    """Move what is looked for most to the top of the search."""
    index = Path(config.site_dir, "search", "search_index.json")
    found = json.loads(index.read_text("utf-8"))
    left = dict(FIRST)
    for section in found["docs"]:
        name = section["location"].partition("#")[2]
        if name in FIRST:
            section["boost"] = left.pop(name)
            section["title"] = name.removeprefix("mempool.")
    if left:
        raise LookupError(f"the search has no section of {', '.join(left)}")
    index.write_text(json.dumps(found, ensure_ascii=False, separators=(",", ":")), "utf-8")
