"""Links of pages to lines of code: [`Class.method`](src/file.py#L12). `python tests/tidy/links.py` renews the numbers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent.parent
PAGES = ("ARCHITECTURE.md", "CONTRIBUTING.md")

LINK = re.compile(r"\[`(?P<name>[\w.]+)`\]\((?P<path>[\w./]+)#L(?P<line>\d+)\)")


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, int]]:
    """The names that a module defines, those of its classes with the class before them, and their lines."""
    for statement in body:
        match statement:
            case ast.ClassDef(name=name, body=inner):
                yield prefix + name, statement.lineno
                yield from definitions(inner, f"{prefix}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name, statement.lineno
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name, statement.lineno
            case ast.If(body=then, orelse=otherwise):
                yield from definitions([*then, *otherwise], prefix)


def line_of(path: Path, name: str) -> int | None:
    """The line of a file where a name is defined, the first of several; None: nowhere."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        found = [line for defined, line in definitions(ast.parse(text).body) if defined == name]
    else:  # Cython's own language
        pattern = re.compile(rf"cdef [^(=]*\b{re.escape(name)}\(|cdef class {re.escape(name)}\b")
        found = [number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)]
    return min(found, default=None)


def names_in(path: Path, name: str) -> set[str]:
    """The names and attributes that a function uses."""
    first = line_of(path, name)
    [found] = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.lineno == first
    ]
    uses = list(ast.walk(found))
    return {node.id for node in uses if isinstance(node, ast.Name)} | {
        node.attr for node in uses if isinstance(node, ast.Attribute)
    }


def renewed(page: str) -> str:
    """The text of a page, with the numbers of today. LookupError: what a link names is not defined there any more."""

    def renew(link: re.Match[str]) -> str:
        line = line_of(TREE / link["path"], link["name"])
        if line is None:
            raise LookupError(f"{page}: {link['path']} defines no {link['name']}; link to where it is now")
        return f"[`{link['name']}`]({link['path']}#L{line})"

    return LINK.sub(renew, (TREE / page).read_text("utf-8"))


if __name__ == "__main__":
    for each in PAGES:
        (TREE / each).write_text(renewed(each), "utf-8")
