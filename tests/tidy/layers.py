"""Who may import whom in the package, types and `.pxd` files included. `python tests/tidy/layers.py` prints who does.

Each module belongs to one layer, the one with the longest name that fits. ALLOWED says which layers a layer may import
beside itself. The tests hold that no import breaks this, and that no module imports itself by way of others.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent.parent / "src"

#: Layer by module, or by package with all that is in it.
LAYER_OF = {
    "mempool": "package",
    "mempool.__main__": "tools",
    "mempool._core": "core",
    "mempool._cython": "base",
    "mempool.adapters": "adapters",
    "mempool.background": "keepers",
    "mempool.base_pool": "face",
    "mempool.blocking": "core",
    "mempool.buffer": "core",
    "mempool.cli": "tools",
    "mempool.clock": "base",
    "mempool.deadlock": "deadlock",
    "mempool.dropped": "base",
    "mempool.engine": "seam",
    "mempool.errands": "base",
    "mempool.errors": "base",
    "mempool.explain": "explain",
    "mempool.export": "export",
    "mempool.fleet": "fleet",
    "mempool.fleet.dask": "engine of a fleet",
    "mempool.garbage": "base",
    "mempool.greenlets": "base",
    "mempool.lease": "core",
    "mempool.leases": "helpers",
    "mempool.lifecycle": "lifecycle",
    "mempool.linux": "tools",
    "mempool.local": "local",
    "mempool.maintenance": "keepers",
    "mempool.mapping": "helpers",
    "mempool.messages": "words",
    "mempool.namedtuples": "base",
    "mempool.native": "base",
    "mempool.parking": "parking",
    "mempool.pool": "pool",
    "mempool.pressure": "keepers",
    "mempool.psi": "base",
    "mempool.reading": "helpers",
    "mempool.registry": "registry",
    "mempool.rescue": "sources",
    "mempool.shared": "shared",
    "mempool.shared.pool": "pool",
    "mempool.sizes": "base",
    "mempool.sources": "sources",
    "mempool.stats": "words",
    "mempool.testing": "tools",
    "mempool.tracking": "tracking",
    "mempool.viewers": "tracking",
    "mempool.waiting": "core",
    "mempool.watch": "watch",
    "mempool.web": "web",
}
#: What each layer may import beside itself.
ALLOWED = {
    "base": set(),
    "core": {"base", "seam"},
    "seam": {"base"},
    "words": {"base", "seam"},
    "parking": {"base", "core", "seam"},
    "sources": {"base", "core"},
    "tracking": {"base", "core", "seam", "words", "parking"},
    "lifecycle": {"base", "core", "seam", "parking", "sources"},
    "deadlock": {"seam", "parking", "tracking"},
    "explain": {"base", "seam", "words", "parking", "tracking", "lifecycle", "deadlock"},
    "shared": {"base", "core", "seam", "words", "parking", "sources", "tracking", "lifecycle"},
    "local": {"base", "core", "seam", "words", "parking", "sources", "tracking", "lifecycle"},
    "helpers": {"base", "core"},
    "face": {"base", "core", "seam", "words", "parking", "tracking", "explain", "helpers"},
    "registry": {"base", "face"},
    "pool": {"base", "core", "words", "sources", "tracking", "local", "shared", "face", "registry"},
    "watch": {"base", "core", "seam", "words", "sources", "lifecycle", "explain", "shared"},
    "keepers": {"base", "core", "seam", "words", "sources", "tracking", "lifecycle", "face"},
    "export": {"seam", "lifecycle", "watch"},
    "web": {"watch"},
    "package": {"base", "core", "words", "sources", "tracking", "helpers", "registry", "pool", "watch", "keepers"},
    "adapters": {"base", "sources", "pool", "package"},
    "fleet": {"base", "sources", "shared", "face", "pool", "words"},
    "engine of a fleet": {"registry", "face", "pool", "fleet"},
    "tools": {
        *{"base", "core", "seam", "words", "parking", "sources", "tracking", "lifecycle", "deadlock", "explain", "local"},
        *{
            "shared",
            "helpers",
            "face",
            "registry",
            "pool",
            "keepers",
            "package",
            "adapters",
            "watch",
            "export",
            "web",
            "fleet",
            "engine of a fleet",
        },
    },
}

CIMPORT = re.compile(r"^from (mempool[\w.]*) cimport (.+)$", re.MULTILINE)


def modules() -> dict[str, list[Path]]:
    """Each module of the package and its files: `.py`, and the `.pyi` and `.pxd` beside it."""
    found: dict[str, list[Path]] = {}
    for path in sorted((SOURCES / "mempool").rglob("*.p*")):
        if path.suffix in {".py", ".pyi", ".pxd"}:
            dotted = ".".join(path.relative_to(SOURCES).with_suffix("").parts)
            found.setdefault(dotted.removesuffix(".__init__"), []).append(path)
    return found


def named(module: str, names: Iterable[str], known: Iterable[str]) -> set[str]:
    """What `from module import names` imports: modules in it, or the module itself."""
    parts = {f"{module}.{name}" for name in names}
    return (parts & set(known)) | ({module} if parts - set(known) else set())


def imported_by(path: Path, known: Iterable[str]) -> set[str]:
    """The modules of the package that a file names in an import, wherever in it, also for types only."""
    text = path.read_text("utf-8")
    if path.suffix == ".pxd":
        return {
            found for origin, names in CIMPORT.findall(text) for found in named(origin, re.findall(r"\w+", names), known)
        }
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names if alias.name in known}
            case ast.ImportFrom(module=str(origin), names=names, level=0):
                origin = origin.removeprefix("cython.cimports.")
                if origin in known:
                    found |= named(origin, [alias.name for alias in names], known)
            case ast.ImportFrom(level=level) if level:
                raise ValueError(f"{path}:{node.lineno}: imports in the package are absolute")
    return found


def imports() -> set[tuple[str, str]]:
    """Who imports whom, as pairs."""
    files = modules()
    pairs = {(who, whom) for who, paths in files.items() for path in paths for whom in imported_by(path, files)}
    return {(who, whom) for who, whom in pairs if who != whom}


def reached_by(path: Path, pairs: Iterable[tuple[str, str]]) -> set[str]:
    """What a file outside of the package imports, and what that imports, and so on. The package itself leads nowhere."""
    reached = imported_by(path, modules())
    todo = [module for module in reached if module != "mempool"]
    while todo:
        who = todo.pop()
        more = {whom for importer, whom in pairs if importer == who} - reached
        reached |= more
        todo += [module for module in more if module != "mempool"]
    return reached


def layer_of(module: str) -> str:
    """The layer of a module, or of the innermost package that has one. LookupError: the package grew a module of none."""
    part = module
    while part not in LAYER_OF or (part == "mempool" and module != "mempool"):
        if "." not in part:
            raise LookupError(f"{module} is in no layer; say in {Path(__file__).name} in which")
        part = part.rpartition(".")[0]
    return LAYER_OF[part]


def is_allowed(who: str, whom: str) -> bool:
    """Whether the layers allow this import."""
    mine, theirs = layer_of(who), layer_of(whom)
    return mine == theirs or theirs in ALLOWED[mine]


def circles(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others: Tarjan's strongly connected components."""
    following: dict[str, list[str]] = {}
    for who, whom in sorted(pairs):
        following.setdefault(who, []).append(whom)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in following.get(module, ()):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(following):
        if module not in index:
            visit(module)
    return found


if __name__ == "__main__":
    for importer, imported in sorted(imports()):
        mark = "" if is_allowed(importer, imported) else "  NOT ALLOWED"
        print(f"{importer} -> {imported}{mark}")
    for circle in circles(imports()):
        print("a circle:", ", ".join(circle))
