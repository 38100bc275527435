"""A process that gevent or eventlet has patched, and that takes commands: what answers is a thread of the system's."""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path

import pytest
from programs import Program

from mempool import watch

PATCHES = {
    "gevent": "from gevent import monkey, spawn, sleep; monkey.patch_all()",
    "eventlet": "import eventlet; from eventlet import spawn, sleep; eventlet.monkey_patch()",
}
#: eventlet asks for no address here, and imports for long what does; greenlet crashes at times without the GIL.
ENVIRONMENT = {"EVENTLET_NO_GREENDNS": "yes", "PYTHON_GIL": "1", "PYTHONWARNINGS": "ignore"}

both = pytest.mark.parametrize("library", PATCHES)


def program(library: str, *lines: str) -> Program:
    """In these lines PATCH is where the library patches; mempool is imported before."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed; it has no release for each Python")
    body = "\n".join(map(textwrap.dedent, lines))
    return Program(body.replace("PATCH", PATCHES[library]), env=ENVIRONMENT)


@both
@pytest.mark.sample(2)
@pytest.mark.parametrize("patched", ["before it is published", "after"])
def test_whoever_steers_is_answered_though_no_greenlet_gives_way(folder: Path, library: str, patched: str) -> None:
    """What answered was a greenlet: others held it up under gevent, and eventlet left it no `poll`: it failed for ever."""
    publish = 'pool = Pool(Objects(bytearray), 2, name="steered"); mempool.watch.publish(steer=True)'
    lines = ["PATCH", publish] if patched == "before it is published" else [publish, "PATCH"]
    # The greenlet that waits for a line of stdin stops all of them: a pipe is read without asking the hub.
    with program(library, *lines, "ready()", "assert pool.reserve == 3") as running:
        assert watch.find("steered").resize(3)["promised"] == 3
        assert watch.find("steered").stats().reserve == 3
        said = running.end().splitlines()
    assert [line for line in said if line and "were not greened" not in line] == []  # eventlet says that of any RLock


@both
def test_in_the_child_of_a_fork_no_greenlet_runs_before_the_fork_returns(folder: Path, library: str) -> None:
    """To begin a greenlet there let the others run, which were the parent's and took themselves for it.

    And the greenlet that answered in the parent lived on in the child, and said that somebody had closed its sockets.
    """
    body = """
        PATCH
        pool = Pool(Objects(bytearray), 2, name="forked")
        mempool.watch.publish(steer=True)
        ran, forking = [], False
        def other():
            while True:
                if forking:
                    ran.append(os.getpid())
                sleep(0)  # sleeps: lets the other greenlets run
        for _ in range(3):
            spawn(other)
        sleep(0)  # sleeps: lets the other greenlets run
        forking = True
        child = os.fork()
        forking = False
        if child == 0:
            if "eventlet" in sys.modules:
                import eventlet.hubs
                eventlet.hubs.use_hub()
            assert not ran, ran
            for _ in range(100):
                sleep(0)  # sleeps: lets the other greenlets run
            ready()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == 0 and not ran, (status, ran)
    """
    with program(library, body) as running:
        both_of_them = [process for process in watch.processes() if any(pool.name == "forked" for pool in process.pools)]
        assert len(both_of_them) == 2
        for process in both_of_them:
            (pool,) = process.pools
            assert "2 promised" in pool.why()
        said = running.end()
    assert said == ""
