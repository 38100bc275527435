"""What surrounds a published process is broken or hostile: its descriptors, its directory, its pools' names, who asks."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from click.testing import CliRunner
from programs import Program
from terminals import OnTerminal

from mempool import IMPLEMENTATION, Objects, Pool, watch
from mempool._core import sockets
from mempool.cli import serving
from mempool.cli.app import mempool as command
from mempool.export import Totals
from mempool.testing import wait_until
from mempool.watch import words
from mempool.watch.directory import WatchError, open_directory
from mempool.watch.layout import BUCKETS

# -- descriptors


@pytest.mark.skipif(
    IMPLEMENTATION == "pure" and sys.version_info < (3, 13),
    reason="uncompiled, before Python 3.13, the mapping of a page has a descriptor of its own, and closes it unseen",
)
def test_nothing_of_a_daemon_that_has_closed_all_descriptors_is_closed(folder: Path) -> None:
    """It does so when it begins, and its own files get the numbers: its own in a child of a fork, and at the end."""
    body = """
    mempool.watch.publish()
    pool = Pool(Objects(object), 1, name="daemon")
    os.closerange(3, 256)
    own = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    def still_open():
        return sum(os.path.exists(f"/proc/self/fd/{fd}") for fd in own)
    pid = os.fork()
    if pid == 0:
        os._exit(still_open())
    in_child = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    mempool.watch.unpublish()
    ready(in_child, still_open())
    """
    program = Program(body)
    try:
        assert program.wait_ready() == ["20", "20"]
    finally:
        program.__exit__(None, None, None)


def test_a_connection_is_accepted_from_the_listener_that_is_meant_and_from_no_other() -> None:
    """Where somebody has closed it, its number may be that of another listener: EBADF, and who waits there stays there."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        inode = os.fstat(listener.fileno()).st_ino
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
            sockets.accept(listener, inode + 1)
        assert caught.value.errno == errno.EBADF
        os.close(sockets.accept(listener, inode))


def test_a_socket_that_a_daemon_has_closed_ends_with_a_warning_and_touches_no_other_file(folder: Path) -> None:
    """The page goes on, and says that there are no commands; `publish` brings them back."""
    body = """
    mempool.watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name="daemon")
    os.closerange(3, 256)
    mine = os.open(os.environ["MEMPOOL_WATCH_DIR"] + "/mine", os.O_RDWR | os.O_CREAT)
    own = [mine] + [os.dup(mine) for _ in range(20)]
    ready()
    open_now = sum(os.path.exists(f"/proc/self/fd/{fd}") for fd in own)
    mempool.watch.publish(steer=True)
    print("again", open_now, os.fstat(mine).st_size, mempool.watch.find("daemon").why()[:13], flush=True)
    """
    with Program(body) as program:
        with pytest.raises(watch.NoAnswer):
            watch.find("daemon").why(patience=0.5)
        wait_until(lambda: not next(watch.processes()).takes_commands)
        said = program.end()
        assert "again 21 0 pool 'daemon'" in said, said
        assert said.count("was closed by somebody else") == 1
        assert "Traceback" not in said


@pytest.mark.long_on_both
def test_a_process_without_a_free_descriptor_is_asked_and_steered_and_says_nothing(folder: Path) -> None:
    """One is kept for that. A process is asked just when something is wrong with it."""
    body = """
    import resource
    mempool.watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name="full")
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    own = []
    try:
        while True:
            own.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    ready()
    """
    with Program(body) as program:
        for reserve in range(2, 7):
            assert "promised" in watch.find("full").why(patience=10)
            assert watch.find("full").resize(reserve, patience=10)["promised"] == reserve
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(8)]
        for one in crowd:
            one.connect(next(watch.processes())._page.socket_path)
        assert "promised" in watch.find("full").why(patience=10)
        for one in crowd:
            one.close()
        assert program.end() == ""


# -- the directory


@pytest.mark.parametrize("where", ["/etc/passwd/pages", "/dev/shm/" + "n" * 300])
def test_a_directory_that_cannot_be_reached_is_told(where: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMPOOL_WATCH_DIR", where)
    for arguments in (["ls"], ["top", "--once"], ["why", "x"], ["resize", "x", "--reserve", "1"], ["export"]):
        ended = CliRunner().invoke(command, arguments, standalone_mode=False)
        assert getattr(ended.exception, "exit_code", None) == 1, (arguments, ended.exception)
        assert where in str(ended.exception)
    with pytest.raises(WatchError, match="MEMPOOL_WATCH_DIR"):
        watch.publish()


def test_a_directory_behind_a_door_that_is_closed_to_this_user_is_told(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    folder.mkdir(mode=0o700)
    (folder / "inner").mkdir(mode=0o700)
    os.seteuid(12345)
    try:
        with pytest.raises(WatchError, match="Permission denied"):
            open_directory(str(folder / "inner"))
    finally:
        os.seteuid(0)


FULL = """
import sys
from mempool import Objects, Pool, watch
try:
    print(watch.publish(steer=sys.argv[1] == "steer"))
except watch.WatchError as error:
    print("WatchError:", error)
pool = Pool(Objects(object), 1)
pool.free(pool.alloc())
print(watch.is_published(), sum(len(process.pools) for process in watch.processes()))
"""


@pytest.mark.long_on_both
@pytest.mark.parametrize(
    ("options", "steer", "told", "shown"),
    [
        ("size=32k", "numbers", "has no room for a page of 64 KiB; remove something", "False 0"),
        ("nr_inodes=1", "numbers", "no page can be made in", "False 0"),
        ("nr_inodes=2", "steer", "no socket can be made at", "True 1"),
        ("nr_inodes=2", "numbers", ".page", "True 1"),
    ],
)
def test_a_directory_that_is_full_is_told_and_what_there_is_room_for_is_shown(
    options: str, steer: str, told: str, shown: str, folder: Path
) -> None:
    folder.mkdir(mode=0o700)
    mount = f'mount -t tmpfs -o {options},mode=700 none "$0" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, str(folder), sys.executable, "-c", FULL, steer]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unshare:" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip(f"nothing can be mounted here: {ended.stderr}")
    first, second = ended.stdout.splitlines()
    assert told in first
    assert second == shown
    assert ended.stderr == ""


# -- threads


def test_threads_that_publish_at_once_make_one_page(folder: Path) -> None:
    """A second one would be a process without pools, for as long as this one lives."""
    for _ in range(20):
        began = threading.Barrier(8)
        paths: list[str] = []

        def publish(began: threading.Barrier = began, paths: list[str] = paths) -> None:
            began.wait()
            paths.append(watch.publish())
            Pool(Objects(object), 1, name="one of many")

        threads = [threading.Thread(target=publish) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(paths)) == 1
        assert len(list(folder.iterdir())) == 1
        watch.unpublish()


def test_the_child_of_a_fork_that_can_have_no_thread_shows_its_figures_and_says_so_in_a_line(folder: Path) -> None:
    """A container allows so many threads. CPython printed a traceback at each fork, as of any exception in its hook."""
    body = """
    from mempool import native
    pool = Pool(Objects(object), 1, name="no thread")
    mempool.watch.publish(steer=True)
    def refuse(run, name):
        raise RuntimeError("can't start new thread")
    native.start_thread = refuse
    if os.fork() == 0:
        assert mempool.watch.is_published()
        ready()
        os._exit(0)
    os.wait()
    """
    with Program(body) as running:
        assert sorted(process.takes_commands for process in watch.processes()) == [False, True]
        said = running.end()
    (line,) = [line for line in said.splitlines() if "DeprecationWarning" not in line and "os.fork" not in line]
    assert line == "the pools of this forked process cannot be steered: can't start new thread"


# -- names

ODD = ["a@b", "queue#3", "c@d#2@e", " spaced ", "日本語", "\x1b]0;owned\x07", "\x1b[2J", "a\nb", '"quoted"\\', "<script>"]


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_pool_is_named_in_a_command_as_it_is_shown(name: str, folder: Path) -> None:
    """Whatever stands in its name: also what else tells a number or a process."""
    watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name=name)
    (shown,) = [entry["pool"] for entry in json.loads(CliRunner().invoke(command, ["ls", "--json"]).output)["pools"]]
    assert shown.isprintable()
    for target in (shown, f"{shown}@{os.getpid()}", f"{shown}#1@{os.getpid()}"):
        ended = CliRunner().invoke(command, ["why", target, "--patience", "60"])
        assert "1 promised" in ended.output, (target, ended.output)
        assert CliRunner().invoke(command, ["resize", target, "--reserve", "2"], standalone_mode=False).return_value == 0
        assert pool.reserve == 2
        pool.resize(reserve=1)


@pytest.mark.long_on_both
def test_no_terminal_and_no_scrape_is_led_astray_by_a_name(folder: Path) -> None:
    watch.publish()
    pools = [Pool(Objects(object), 1, name=name) for name in ODD]
    with OnTerminal("-m", "mempool", "top", "--interval", "0.1", lines=20) as terminal:
        terminal.shows(lambda lines: "quoted" in "".join(lines) and "10 pools" in lines[0])
        for _ in ODD:
            terminal.type("j")  # each of them in the sentence below, too
        terminal.shows(lambda lines: " 日" in "".join(lines) or "promised" in "".join(lines[12:]))
        assert b"owned\x07" not in terminal.raw
        assert terminal.raw.count(b"\x1b[2J") <= 2  # its own: one when it begins, one for the first frame
        terminal.type("q")
        assert terminal.ended() == 0
    parser = pytest.importorskip("prometheus_client.parser")
    families = {family.name: family for family in parser.text_string_to_metric_families(Totals().text())}
    told = {sample.labels["pool"] for sample in families["mempool_reserve_elements"].samples}
    assert len(told) == len(ODD)
    assert {"a@b", '"quoted"\\', "<script>", "日本語"} <= told
    del pools


def test_a_wait_above_the_last_bucket_is_told_as_longer(folder: Path) -> None:
    waits = [0] * len(BUCKETS) + [1]
    assert words.seconds(words.quantile(waits, 0.5)) == ">100s"


# -- who asks


def test_requests_that_are_sent_together_are_each_answered(folder: Path) -> None:
    """One line, one answer, in order: whoever writes a client of his own may send several lines before he reads."""
    watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name="frames")
    path = next(watch.processes())._page.socket_path
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(path)
        lines = (
            b'{"verb": "hello"}',
            b'{"verb": "resize", "number": 1, "reserve": 3}',
            b"[]",
            b'{"verb": "why", "number": 1}',
        )
        connection.sendall(b"\n".join(lines) + b"\n")
        received = b""
        while received.count(b"\n") < 4 and (data := connection.recv(65536)):
            received += data
    hello, resized, wrong, why = map(json.loads, received.splitlines())
    assert (hello["pid"], resized["promised"], wrong["ok"]) == (os.getpid(), 3, False)
    assert "3 promised" in why["why"]
    assert pool.reserve == 3


@pytest.mark.long_on_both
def test_who_connects_to_a_web_server_and_sends_nothing_is_cut_off_and_only_so_many_are_served_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`mempool export` and `web`: else a port that anybody on the machine can reach costs a thread for each that does."""
    monkeypatch.setattr(serving, "PATIENCE", 0.3)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = serving.listen(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        before = threading.active_count()
        address = ("127.0.0.1", server.server_address[1])
        crowd = [socket.create_connection(address, 20) for _ in range(serving.AT_ONCE + 40)]
        for one in crowd:
            assert one.recv(1) == b""  # at once, or once patience is over
            one.close()
        wait_until(lambda: threading.active_count() <= before)
        server.RequestHandlerClass.timeout = 60  # type: ignore[attr-defined]  # who asks in the end is not to be cut off
        connection = HTTPConnection(*address, timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().status == 204
        connection.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
