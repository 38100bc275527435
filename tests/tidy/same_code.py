"""Whether two revisions have the same code, under other names or in other places. For changes that only rename or move.

    python tests/tidy/same_code.py OLD NEW [--names FILE] [--under src tests] [--but-for self._engine ...]

OLD, NEW    revisions of git, or folders (`.`: the tree as it stands)
--names     a JSON file: {"words": {"old": ["new", ...]}}: what each identifier may have become
--but-for   `x` and `self._engine.x` are `self.x`: for functions that moved behind a border

Each function, method and constant of OLD must stand in NEW, in whatever file and class, with the same syntax tree: every
identifier the same or as `--names` allows, two names of a function still two. Comments, docstrings and layout do not
count. Strings do, unless they are names; those that say something else are listed, so that they can be read.
Status 1 if anything was changed, or is gone. What is only in NEW is listed and is no difference.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

IDENTIFIERS = re.compile(r"[A-Za-z_][\w.]*(?: [A-Za-z_][\w.]*)*")
#: Fields of syntax trees that hold an identifier, or a list of them.
NAMES = {"id", "attr", "arg", "name", "asname", "module", "names", "rest", "kwd_attrs"}
UNORDERED = {"__slots__", "__all__"}
#: How a function is made, and not what it does: the position, and Python's notes to itself.
LEFT_OUT = {"lineno", "col_offset", "end_lineno", "end_col_offset", "ctx", "type_comment", "kind"}

Words = Mapping[str, Iterable[str]]


@dataclass(frozen=True)
class Piece:
    """A function, a method or a constant, and where it stands."""

    path: str
    owner: str  # the class, or ""
    name: str
    node: ast.stmt = field(compare=False, hash=False)

    def __str__(self) -> str:
        return f"{self.path}: {self.owner}{'.' if self.owner else ''}{self.name}"


class Comparison:
    """One piece beside another."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.said: list[tuple[str, str]] = []  # strings that are not the same
        self._became: dict[str, str] = {}  # names of this piece, and what became of them
        self._was: dict[str, str] = {}

    def may_be(self, old: str, new: str) -> bool:
        """Whether this identifier may have become that one."""
        if old == new:
            return True
        before, after = old.split("."), new.split(".")
        if len(before) > 1 or len(after) > 1:
            return len(before) == len(after) and all(map(self.may_be, before, after))
        return new in self.words.get(old, ())

    def difference(self, old: object, new: object, where: str = "") -> str | None:
        """The first difference, in words; None: there is none."""
        if type(old) is not type(new):
            return f"{where}: {shown(old)} is {shown(new)} now"
        if isinstance(old, ast.AST):
            assert isinstance(new, ast.AST)
            return self._of_nodes(old, new)
        if isinstance(old, list):
            assert isinstance(new, list)
            if len(old) != len(new):
                return f"{where}: {len(old)} of {shown(old)} are {len(new)} now: {shown(new)}"
            return next(filter(None, (self.difference(*both, where) for both in zip(old, new, strict=True))), None)
        return None if old == new else f"{where}: {old!r} is {new!r} now"

    def _of_nodes(self, old: ast.AST, new: ast.AST) -> str | None:
        line = f"line {getattr(old, 'lineno', '?')} {type(old).__name__}"
        if isinstance(old, ast.Assign) and isinstance(new, ast.Assign) and ast.unparse(old.targets[0]) in UNORDERED:
            return self._of_lists(old.value, new.value, line)
        if isinstance(old, ast.Constant) and isinstance(new, ast.Constant) and isinstance(old.value, str):
            return self._of_strings(old.value, new.value, line)
        if isinstance(old, ast.Name | ast.arg):
            found = self._of_variables(*[node.id if isinstance(node, ast.Name) else node.arg for node in (old, new)], line)  # type: ignore[attr-defined]
            if found is not None:
                return found
        for name in old._fields:
            if name in LEFT_OUT:
                continue
            one, other = getattr(old, name, None), getattr(new, name, None)
            if name in NAMES and self._are_names(one, other):
                continue
            found = self.difference(one, other, f"{line}.{name}")
            if found is not None:
                return found
        return None

    def _are_names(self, old: object, new: object) -> bool:
        if isinstance(old, str) and isinstance(new, str):
            return self.may_be(old, new)
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            return all(isinstance(one, str) and isinstance(two, str) for one, two in zip(old, new, strict=True)) and all(
                map(self.may_be, old, new)
            )
        return False

    def _of_variables(self, old: str, new: str, where: str) -> str | None:
        """A variable has one new name in a piece, and no other of the piece has it, too: that would be another program."""
        if not self.may_be(old, new):
            return f"{where}: {old} is {new} now, and may not be"
        if self._became.setdefault(old, new) != new:
            return f"{where}: {old} is {new} here and {self._became[old]} before"
        if self._was.setdefault(new, old) != old:
            return f"{where}: {old} and {self._was[new]} are both {new} now"
        return None

    def _of_lists(self, old: ast.expr, new: ast.expr, where: str) -> str | None:
        """Lists of names that are kept in alphabetical order: a new name may stand elsewhere."""
        before, after = ([ast.literal_eval(name) for name in getattr(tree, "elts", [])] for tree in (old, new))
        for name in before:
            found = next((other for other in after if self.may_be(name, other)), None)
            if found is None:
                return f"{where}: {name!r} is not listed any more"
            after.remove(found)
        return f"{where}: {after} are listed now" if after else None

    def _of_strings(self, old: str, new: object, where: str) -> str | None:
        if not isinstance(new, str):
            return f"{where}: {old!r} is {new!r} now"
        if old == new:
            return None
        if IDENTIFIERS.fullmatch(old) and IDENTIFIERS.fullmatch(new):
            before, after = old.split(" "), new.split(" ")
            if len(before) == len(after) and all(map(self.may_be, before, after)):
                return None
            if " " not in old:
                return f"{where}: {old!r} is {new!r} now, and may not be"
        self.said.append((old, new))
        return None


def shown(what: object) -> str:
    text = ast.unparse(what) or type(what).__name__ if isinstance(what, ast.AST) else str(what)
    if isinstance(what, list):
        text = "; ".join(map(shown, what))
    return text if len(text) <= 100 else f"{text[:100]}..."


class Plain(ast.NodeTransformer):
    """Without docstrings, and with one name for whoever a function belongs to."""

    def __init__(self, but_for: Iterable[str] = ()) -> None:
        self.but_for = set(but_for)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if ast.unparse(node) in self.but_for:
            return ast.Name("self", node.ctx)
        return self.generic_visit(node)


def pieces_of(path: str, text: str, but_for: Iterable[str] = ()) -> list[Piece]:
    """The functions, methods and constants of a file, also those that are made under a condition."""
    tree = Plain(but_for).visit(ast.parse(text))
    found: list[Piece] = []

    def collect(body: list[ast.stmt], owner: str) -> None:
        for node in body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    found.append(Piece(path, owner, node.name, node))
                case ast.ClassDef():
                    collect(node.body, node.name)
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    found.append(Piece(path, owner, name, node))
                case ast.If() | ast.Try() | ast.With():
                    for part in ("body", "orelse", "finalbody"):
                        collect(getattr(node, part, []), owner)
                    for handler in getattr(node, "handlers", []):
                        collect(handler.body, owner)

    collect(tree.body, "")
    return found


@dataclass
class Result:
    """What became of the pieces."""

    same: int = 0
    changed: list[tuple[Piece, str]] = field(default_factory=list)
    gone: list[Piece] = field(default_factory=list)
    new: list[Piece] = field(default_factory=list)
    said: list[tuple[Piece, str, str]] = field(default_factory=list)


def compare(old: list[Piece], new: list[Piece], words: Words) -> Result:
    """Find for each old piece a new one of its name with the same tree: best in its own file and class."""
    result = Result()
    left = list(new)
    by_name: dict[str, list[Piece]] = {}
    for piece in new:
        by_name.setdefault(piece.name, []).append(piece)
    for piece in old:
        names = {piece.name, *words.get(piece.name, ())}
        candidates = [other for name in names for other in by_name.get(name, []) if any(other is one for one in left)]
        candidates.sort(key=lambda other: nearness(piece, other, words))
        first: str | None = None
        for other in candidates:
            comparison = Comparison(words)
            difference = comparison.difference(piece.node, other.node)
            if difference is None:
                result.same += 1
                result.said += [(piece, *strings) for strings in comparison.said]
                left = [one for one in left if one is not other]
                break
            first = first or f"{other}: {difference}"
        else:
            if first is None:
                result.gone.append(piece)
            else:
                result.changed.append((piece, first))
    result.new = left
    return result


def nearness(old: Piece, new: Piece, words: Words) -> tuple[bool, bool, str]:
    owners = {old.owner, *words.get(old.owner, ())}
    return (new.owner not in owners, new.path != old.path, new.path)


def files_of(where: str, under: Iterable[str]) -> dict[str, str]:
    """The Python files of a revision, or of a folder, and what they say."""
    folder = Path(where)
    if folder.is_dir():
        paths = [path for part in under for path in sorted((folder / part).rglob("*.py")) if "__pycache__" not in path.parts]
        return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in paths}

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout

    listed = git("ls-tree", "-r", "--name-only", where, "--", *under).splitlines()
    return {path: git("show", f"{where}:{path}") for path in listed if path.endswith(".py")}


def main(arguments: list[str] | None = None) -> int:
    """Compare, and say what was found."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("old")
    options.add_argument("new")
    options.add_argument("--names", type=Path)
    options.add_argument("--under", nargs="+", default=["src"])
    options.add_argument("--but-for", nargs="+", default=[])
    chosen = options.parse_args(arguments)
    words: Words = {} if chosen.names is None else json.loads(chosen.names.read_text("utf-8"))["words"]
    old, new = (
        [piece for path, text in files_of(where, chosen.under).items() for piece in pieces_of(path, text, chosen.but_for)]
        for where in (chosen.old, chosen.new)
    )
    if not old:
        print(f"{chosen.old} has no function under {', '.join(chosen.under)}")
        return 1
    result = compare(old, new, words)
    for piece, difference in result.changed:
        print(f"CHANGED {piece} -> {difference}")
    for piece in result.gone:
        print(f"GONE    {piece}")
    for piece in result.new:
        print(f"new     {piece}")
    for piece, before, after in result.said:
        print(f"says    {piece}: {before!r} -> {after!r}")
    print(
        f"{result.same} of {len(old)} functions and constants are the same; {len(result.changed)} changed, "
        f"{len(result.gone)} gone, {len(result.new)} new, {len(result.said)} strings say something else"
    )
    return 1 if result.changed or result.gone else 0


if __name__ == "__main__":
    sys.exit(main())
