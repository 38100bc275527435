"""Other projects' own tests, run with their pool and with ours in its place: `python -m verification.peers`.

Fetches the sdists of SQLAlchemy and urllib3, installs them in a venv of their own, and runs those of their tests that are
about their pools, twice. Sockets are shut but for this machine. Fails if a test that passes with their pool fails with ours
and is not listed in EXPLAINED.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent

#: Tests that fail with ours, and why that is right.
EXPLAINED = {
    "test_fifo": "asks for first in, first out; ours is last in, first out, as SQLAlchemy's `use_lifo=True`",
    "test_default_queuecls_uses_current_lifoqueue": "asks that the default is queue.LifoQueue; ours was put in its place",
}

IN_SQLALCHEMY = """
import sqlalchemy, sqlalchemy.pool, sqlalchemy.pool.impl
from mempool.adapters.sqlalchemy import AsyncMempoolPool, MempoolPool

for module in (sqlalchemy, sqlalchemy.pool, sqlalchemy.pool.impl):
    for name, ours in (("QueuePool", MempoolPool), ("AsyncAdaptedQueuePool", AsyncMempoolPool)):
        if hasattr(module, name):
            setattr(module, name, ours)
"""
IN_URLLIB3 = """
import urllib3.connectionpool
from mempool.adapters.queue import PoolQueue

urllib3.connectionpool.ConnectionPool.QueueCls = PoolQueue
"""


@dataclass(frozen=True)
class Peer:
    """A project, its tests about pools, and how ours takes the place of its own."""

    name: str
    needs: tuple[str, ...]
    tests: tuple[str, ...]
    plugin: str
    path: str = ""
    """Where in the sdist it is imported from; empty: installed."""
    options: tuple[str, ...] = ()


PEERS = (
    Peer("sqlalchemy", ("greenlet", "typing-extensions"), ("test/engine/test_pool.py",), IN_SQLALCHEMY, "lib"),
    Peer(
        "urllib3",
        (
            "urllib3",
            "anyio[trio]",
            "h2",
            "httpx",
            "hypercorn",
            "pysocks",
            "pytest-socket",
            "quart",
            "quart-trio",
            "cryptography",
            "idna",
            "pyopenssl",
            "trustme",
        ),
        ("test/test_connectionpool.py", "test/test_queue_monkeypatch.py", "test/test_poolmanager.py"),
        IN_URLLIB3,
        options=("--disable-socket", "--allow-unix-socket"),
    ),
)


def run(*command: object, cwd: Path = TREE, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def must(*command: object) -> None:
    done = run(*command)
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {command}")


def counts(python: Path, peer: Peer, tree: Path, plugins: Path, *, ours: bool) -> tuple[int, set[str]]:
    """How many passed, and which failed."""
    name = f"ours_in_{peer.name}"
    (plugins / f"{name}.py").write_text(peer.plugin, "utf-8")
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", *(["-p", name] if ours else []), *peer.options]
    paths = [str(tree / peer.path), str(plugins)] if peer.path else [str(plugins)]
    done = run(python, "-m", "pytest", *options, *peer.tests, cwd=tree, PYTHONPATH=os.pathsep.join(paths))
    passed = re.search(r"(\d+) passed", done.stdout)
    if passed is None:
        sys.exit(f"{done.stdout}\n{peer.name}: no test ran")
    return int(passed[1]), set(re.findall(r"^FAILED \S*::(\w+)", done.stdout, re.MULTILINE))


def main() -> int:
    unexplained = 0
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        plugins = scratch / "plugins"
        plugins.mkdir()
        for peer in PEERS:
            venv.create(scratch / peer.name, with_pip=True)
            python = scratch / peer.name / "bin" / "python"
            pip = (python, "-m", "pip", "-q", "--disable-pip-version-check")
            must(*pip, "install", "pytest", "pytest-timeout", *peer.needs, TREE)
            must(*pip, "download", "--no-deps", "--no-binary", ":all:", "-d", scratch / "sdists", peer.name)
            [sdist] = (scratch / "sdists").glob(f"{peer.name}-*.tar.gz")
            with tarfile.open(sdist) as archive:
                archive.extractall(scratch / "trees", filter="data")
            tree = scratch / "trees" / sdist.name.removesuffix(".tar.gz")
            theirs = counts(python, peer, tree, plugins, ours=False)
            ours = counts(python, peer, tree, plugins, ours=True)
            print(f"{tree.name}: {theirs[0]} passed with their pool, {ours[0]} with ours")
            for test in sorted(ours[1] - theirs[1]):
                why = EXPLAINED.get(test)
                unexplained += why is None
                print(f"    fails with ours: {test}: {why or 'NOT EXPLAINED'}")
    print("all explained" if not unexplained else f"{unexplained} not explained")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
