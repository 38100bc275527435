"""With the GIL, nothing of what free threads need is in the fast path: `python -m verification.same_code`.

It compiles `_core/fast_path.py` as it is, for the Python that runs this, which has the GIL; and once more from a copy of
the sources in which Cython sees none of it: no branch that asks whether there is a GIL, no mutex. The object files must
be the same, byte for byte: every instruction of `alloc`, `free` and what they inline.

So that this means something, a copy comes first whose compiler cannot know that there is a GIL: it must be told apart.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCES = Path("src/mempool")
MODULE = "_core/fast_path.py"
MUTEX = "_core/mutex.pxd"
#: What a line says of a mutex: it is nothing with the GIL.
CALL = re.compile(r"\b(hold_mutex|release_mutex)\(&[\w.]+\)")
NAME = re.compile(r"\bWITHOUT_GIL\b")
#: In mutex.pxd, where there is a GIL: what the compiler sees of the name.
KNOWN = "#define MEMPOOL_WITHOUT_GIL 0"
UNKNOWN = "static volatile int mempool_planted;\n    #define MEMPOOL_WITHOUT_GIL mempool_planted"


def without(text: str) -> str:
    """The same lines, with nothing of free threads for Cython to see, which leaves out a branch that is never taken."""
    lines = text.splitlines(keepends=True)
    imports = re.compile(r"\bc?import\b|^\s*WITHOUT_GIL,$")
    return "".join(one if imports.search(one) else NAME.sub("False", CALL.sub("pass", one)) for one in lines)


def directives() -> dict[str, object]:
    """Those of setup.py, which cannot be imported: it builds."""
    for node in ast.parse(Path("setup.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DIRECTIVES":
            found: dict[str, object] = ast.literal_eval(node.value)
            return found
    raise LookupError("setup.py has no DIRECTIVES")


def compiled(tree: Path) -> bytes:
    """The object file of the module of this copy of the sources."""
    options = [part for name, value in directives().items() for part in ("-X", f"{name}={value}")]
    cython = [sys.executable, "-W", "ignore", "-m", "cython", "-3", *options, f"mempool/{MODULE}", "-o", "module.c"]
    subprocess.run(cython, cwd=tree, check=True, capture_output=True)
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    flags = [*sysconfig.get_config_var("CFLAGS").split(), "-O3", "-g0", "-fPIC", "-w", f"-I{sysconfig.get_path('include')}"]
    subprocess.run([*compiler, *flags, "-c", "module.c", "-o", "module.o"], cwd=tree, check=True)
    return (tree / "module.o").read_bytes()


def copy(folder: str, name: str) -> Path:
    tree = Path(folder, name)
    shutil.copytree(SOURCES, tree / "mempool", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tree


def main() -> int:
    """Returns 0 where both are the same, and one that is not is told apart."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        print("this is for a Python with the GIL")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        as_it_is, bare, planted = (copy(folder, name) for name in ("as-it-is", "bare", "planted"))
        changed = 0
        for path in (path for ending in ("py", "pxd") for path in (bare / "mempool").rglob(f"*.{ending}")):
            text = path.read_text("utf-8")
            if path != bare / "mempool" / MUTEX and (stripped := without(text)) != text:
                path.write_text(stripped, "utf-8")
                changed += 1
        mutex = planted / "mempool" / MUTEX
        mutex.write_text(mutex.read_text("utf-8").replace(KNOWN, UNKNOWN), "utf-8")
        ours, theirs, other = compiled(as_it_is), compiled(bare), compiled(planted)
    if ours == other:
        print("a module that asks at each call whether there is a GIL is not told apart: this tells of nothing")
        return 1
    told = "the same, byte for byte" if ours == theirs else "not the same"
    print(f"{MODULE} for Python {sys.version.split()[0]}: {told}; {len(ours)} bytes; {changed} files were stripped")
    return int(ours != theirs)


if __name__ == "__main__":
    sys.exit(main())
