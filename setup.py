"""The compiled modules, the packages and two switches; everything else is in pyproject.toml.

MEMPOOL_PURE=1              compile nothing: a py3-none-any wheel
MEMPOOL_REQUIRE_COMPILED=1  a failed compile is an error; without it, it only warns and the install goes on pure
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

# Each has a top line "# cython: ..."; tests/tidy/test_tidy.py compares this list with the files on disk and with the one in
# src/mempool/_core/__init__.py, which loads the same modules uncompiled.
COMPILED = (
    "src/mempool/_core/transfer.py",
    "src/mempool/buffer.py",
    "src/mempool/_core/outstanding.py",
    "src/mempool/_core/mirror.py",
    "src/mempool/_core/sockets.py",
    "src/mempool/_core/state.py",
    "src/mempool/_core/base_decisions.py",
    "src/mempool/_core/decisions.py",
    "src/mempool/_core/ends.py",
    "src/mempool/_core/queueing.py",
    "src/mempool/waiting.py",
    "src/mempool/_core/fast_path.py",
    "src/mempool/blocking.py",
    "src/mempool/lease.py",
)
# The engine of pools that several processes share, and its quick way. Its transactions are an instruction of x86-64.
SHARED = ("src/mempool/shared/_engine.pyx", "src/mempool/shared/_quick.pyx")
SHARED_FITS = sys.platform == "linux" and platform.machine() in {"x86_64", "AMD64"}
PURE = os.environ.get("MEMPOOL_PURE", "0") not in {"", "0"}
REQUIRE_COMPILED = os.environ.get("MEMPOOL_REQUIRE_COMPILED", "0") not in {"", "0"}
DIRECTIVES = {
    "language_level": 3,
    "auto_pickle": False,  # a copy of a pool's inside would be a second owner
    "binding": False,  # True costs 40 % of a warm alloc + free
    "embedsignature": True,  # inspect.signature and help() read it
    "embedsignature.format": "clinic",
    # What holds without the GIL: docs/explanation/proof.md. SharedPool does not; its engine says so in its file.
    "freethreading_compatible": True,
}
# Without -g0 most of a wheel is debug information. CFLAGS="-g ..." asks for it: to read what a sanitizer reports.
FLAGS = ["/O2"] if os.name == "nt" else ["-O3", *([] if "-g" in os.environ.get("CFLAGS", "").split() else ["-g0"])]

# Which translate: forked, as a process that is spawned would run this file again. 0: this one.
PROCESSES = (os.cpu_count() or 0) if sys.platform == "linux" and sys.version_info < (3, 14) else 0

if PURE and REQUIRE_COMPILED:
    sys.exit("mempool: MEMPOOL_PURE and MEMPOOL_REQUIRE_COMPILED contradict each other; set one of them")


class BuildAllOrNone(build_ext):
    """Compiles every module or none: the modules share C structures, so half a compiled core could not be loaded."""

    def build_extensions(self) -> None:
        try:
            self.translate()
            super().build_extensions()
        except Exception as failure:
            if REQUIRE_COMPILED:
                raise
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions.clear()
            print(f"mempool: WARNING: the core was not compiled, a slower pure one is installed: {failure}", file=sys.stderr)

    def translate(self) -> None:
        from Cython.Build import cythonize

        # Here and not beside setup() below: an sdist then needs no Cython and carries no generated C.
        # force: a time stamp that a copy or a checkout kept must not hide an edit.
        translated = cythonize(
            self.extensions, compiler_directives=DIRECTIVES, build_dir="build/cython", force=True, nthreads=PROCESSES
        )
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]


def module_name(path: str) -> str:
    return Path(path).with_suffix("").as_posix().removeprefix("src/").replace("/", ".")


def extensions() -> list[Extension]:
    compiled = [Extension(module_name(p), [p], extra_compile_args=FLAGS) for p in COMPILED]
    if SHARED_FITS:
        folder = Path(SHARED[0]).parent
        compiled.extend(
            Extension(
                module_name(path),
                [path],
                include_dirs=[str(folder)],
                depends=[str(header) for header in sorted(folder.glob("*.h"))],
                extra_compile_args=[*FLAGS, "-mcx16"],
            )
            for path in SHARED
        )
    return compiled


setup(
    # The benchmarks stand beside src, to be read; installed, they are what `mempool bench` runs.
    packages=[*find_packages("src"), "mempool.benchmarks"],
    package_dir={"": "src", "mempool.benchmarks": "benchmarks"},
    ext_modules=[] if PURE else extensions(),
    cmdclass={"build_ext": BuildAllOrNone},
    options={"build_ext": {"parallel": True}},
)
