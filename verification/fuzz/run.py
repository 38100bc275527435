"""`make fuzz-shared`, or `python -m verification.fuzz`: libFuzzer over all that reads the file of a shared pool.

The compiled engine is built anew with clang: coverage of protocol.h and of the decisions guides the fuzzer, and
AddressSanitizer looks at each access. Each input is a file and the calls that read it (target.py); the first ones are real
files (seeds.py). What was reached before is kept in build/fuzz/corpus, and gone on with; a finding is left in
build/fuzz/found.

Status 0: no finding. 1: there is one. 77: clang with libFuzzer is not installed (Debian: apt-get install clang).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import mempool

FOLDER = Path(__file__).resolve().parent
TREE = FOLDER.parent.parent
BUILD = TREE / "build/fuzz"
TRANSLATED = TREE / "build/cython/src/mempool/shared/_engine.c"
NOT_INSTALLED = 77
#: Seconds after which one input counts as a hang.
HANGS = 20


def library(name: str) -> Path:
    """One of clang's own, wherever it lies."""
    return Path(
        subprocess.run(["clang", f"-print-file-name={name}"], check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
    )


def is_missing() -> bool:
    return shutil.which("clang++") is None or not library("libclang_rt.fuzzer_no_main-x86_64.a").is_absolute()


def build(*, sanitized: bool) -> Path:
    """A copy of the installed package with an engine that tells what was reached. Where it lies."""
    if not TRANSLATED.exists():
        sys.exit(f"{TRANSLATED} is not there: `make .venv/.stamps/mempool` makes it")
    lib = BUILD / "lib"
    shutil.rmtree(lib, ignore_errors=True)
    shutil.copytree(Path(mempool.__file__).parent, lib / "mempool")
    module = lib / "mempool/shared" / f"_engine{sysconfig.get_config_var('EXT_SUFFIX')}"
    module.unlink()
    includes = [f"-I{TREE / 'src/mempool/shared'}", f"-I{sysconfig.get_path('include')}"]
    watched = "-fsanitize=fuzzer-no-link,address" if sanitized else "-fsanitize=fuzzer-no-link"
    objects = [str(BUILD / "engine.o"), str(BUILD / "driver.o")]
    compiled = ["clang", "-c", "-O1", "-g", "-fPIC", "-w", "-fno-omit-frame-pointer"]
    for command in (
        [*compiled, "-mcx16", watched, *includes, str(TRANSLATED), "-o", objects[0]],
        [*compiled, str(FOLDER / "driver.c"), "-o", objects[1]],
        # -Bsymbolic: a sanitizer's runtime has empty functions of the same names as libFuzzer's, and comes first.
        ["clang++", "-shared", "-Wl,-Bsymbolic", *objects, str(library("libclang_rt.fuzzer_no_main-x86_64.a")),
         "-lpthread", "-ldl", "-lm", "-o", str(module)],
    ):  # fmt: skip
        subprocess.run(command, check=True)
    return lib


def seed(corpus: Path) -> int:
    """Inputs made of real files. How many there are."""
    from verification.fuzz.seeds import inputs

    with tempfile.TemporaryDirectory(prefix="mempool-fuzz-", dir="/dev/shm") as folder:
        made = list(inputs(Path(folder), killed_too=True))
    for number, data in enumerate(made):
        (corpus / f"seed-{number:03}").write_bytes(data)
    return len(made)


def run(lib: Path, seconds: int, *, sanitized: bool, arguments: list[str]) -> int:
    found = BUILD / "found"
    found.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(lib), str(TREE)])}
    if sanitized:
        # What Python leaves when it ends is no leak of ours; a mapping that cannot be had is an answer.
        environment |= {
            "LD_PRELOAD": str(library("libclang_rt.asan-x86_64.so")),
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:handle_abort=0",
        }
    with tempfile.TemporaryDirectory(prefix="mempool-fuzz-", dir="/dev/shm") as folder:
        command = [
            sys.executable, "-m", "verification.fuzz.here", folder, str(BUILD / "corpus"),
            f"-max_total_time={seconds}", f"-timeout={HANGS}", "-rss_limit_mb=3000", f"-artifact_prefix={found}/",
            "-print_final_stats=1", "-use_value_profile=1", f"-max_len={input_max()}", *arguments,
        ]  # fmt: skip
        began = time.monotonic()
        log = BUILD / "log"
        with log.open("w") as out:
            status = subprocess.run(
                command, cwd=TREE, env=environment, check=False, stdout=out, stderr=subprocess.STDOUT
            ).returncode
        said = log.read_text("utf-8", "replace")
        told = Path(folder, "told")
        attached, calls = told.read_text().split() if told.exists() else ("0", "0")
    reached = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", said)
    number = re.search(r"number_of_executed_units: (\d+)", said)
    tried = int(number[1]) if number else 0
    print(
        f"{tried} inputs in {time.monotonic() - began:.0f} s, of which {attached} could be attached to, with {calls} calls; "
        + ("edges {}, features {}, kept {}".format(*reached[-1]) if reached else "nothing was reached")
    )
    if status != 0 or tried == 0:
        print(said[-6000:])
        print(f"status {status}; the input is in {found}, and all that was said in {log}")
        return 1
    return 0


def input_max() -> int:
    from verification.fuzz.target import INPUT_MAX

    return INPUT_MAX


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m verification.fuzz", description=__doc__)
    options.add_argument("seconds", nargs="?", type=int, default=300)
    options.add_argument("--plain", action="store_true", help="without AddressSanitizer: some times as fast")
    options.add_argument("arguments", nargs="*", help="of libFuzzer, such as -runs=1 and a file")
    chosen, others = options.parse_known_args()
    if is_missing():
        print("not installed: clang with libFuzzer; nothing was tried (Debian: apt-get install clang)")
        return NOT_INSTALLED
    (BUILD / "corpus").mkdir(parents=True, exist_ok=True)
    lib = build(sanitized=not chosen.plain)
    print(f"{seed(BUILD / 'corpus')} inputs are made of real files", flush=True)
    return run(lib, chosen.seconds, sanitized=not chosen.plain, arguments=[*others, *chosen.arguments])
