"""`mempool top` on a real terminal (a pty, seen through an emulator): what it shows, follows, costs, and gives back."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import Program
from terminals import OnTerminal

from mempool import Objects, Pool, watch
from mempool.cli.top import program
from mempool.cli.top.screen import View, head_of
from mempool.testing import wait_until
from mempool.watch.layout import BUCKETS, Figures
from mempool.watch.rates import Histories
from mempool.watch.reader import LOCK, Row
from mempool.watch.words import quantile

pytestmark = pytest.mark.long_on_both

TOP = ["-m", "mempool", "top", "--interval", "0.1"]


def row_of(display: list[str], name: str) -> str:
    return next(line for line in display if line.startswith(name))


def test_it_shows_each_pool_and_what_changes(folder: Path) -> None:
    watch.publish()
    pool = Pool(Objects(object), 3, limit=4, name="frames")
    with OnTerminal(*TOP) as terminal:
        display = terminal.shows(lambda lines: "frames" in "".join(lines[2:]))
        assert display[0].startswith("mempool top   1 process, 1 pool, 0 with a line")
        assert display[1].split()[:6] == ["POOL", "PROCESS", "PROMISE", "SPARE", "OUT", "LINE"]
        held = [pool.alloc() for _ in range(4)]
        terminal.shows(lambda lines: "the reserve is used up" in row_of(lines, "frames"))
        terminal.shows(lambda lines: "3 promised, 0 spare, 4 out, 0 in line; the limit of 4" in "".join(lines))
        pool.free_many(held)
        terminal.shows(lambda lines: row_of(lines, "frames").rstrip().endswith(" ok"))
        terminal.type("q")
        assert terminal.ended() == 0


def test_keys_select_sort_filter_and_pause(folder: Path) -> None:
    watch.publish()
    pools = [Pool(Objects(object), 1, name=name) for name in ("apples", "pears", "plums")]
    with OnTerminal(*TOP) as terminal:
        terminal.shows(lambda lines: "plums" in "".join(lines))
        terminal.type("j")
        terminal.shows(lambda lines: " pears: 1 promised" in "".join(lines))
        terminal.type("\x1b[B")
        terminal.shows(lambda lines: " plums: 1 promised" in "".join(lines))
        terminal.type("k")
        terminal.shows(lambda lines: " pears: 1 promised" in "".join(lines))
        terminal.type("s")
        terminal.shows(lambda lines: "sorted by line" in "".join(lines))
        terminal.type("/")
        terminal.shows(lambda lines: "filter:" in lines[-1])
        terminal.type("app\r")
        terminal.shows(lambda lines: "pears" not in "".join(lines) and "apples" in "".join(lines))
        terminal.type("\x1b")
        terminal.shows(lambda lines: "pears" in "".join(lines))
        terminal.type("p")
        terminal.shows(lambda lines: "PAUSED" in lines[-1])
        terminal.type("q")
        assert terminal.ended() == 0
    del pools


def test_keys_that_arrive_together_are_each_obeyed(folder: Path) -> None:
    """As when somebody types fast, keeps an arrow pressed, or pastes: a read of the terminal gives many at once."""
    watch.publish()
    pools = [Pool(Objects(object), 1, name=name) for name in ("apples", "pears", "plums")]
    with OnTerminal(*TOP) as terminal:
        terminal.shows(lambda lines: "plums" in "".join(lines))
        terminal.type("jj")
        terminal.shows(lambda lines: " plums: 1 promised" in "".join(lines))
        terminal.type("\x1b[A\x1bOA")  # arrows up, as terminals send them in either mode
        terminal.shows(lambda lines: " apples: 1 promised" in "".join(lines))
        terminal.type("/p\x1b[Alu\r")  # an arrow is no text
        terminal.shows(lambda lines: "pears" not in "".join(lines) and " plums: 1 promised" in "".join(lines))
        terminal.type("\x1bss")
        terminal.shows(lambda lines: "sorted by alloc/s" in "".join(lines) and "pears" in "".join(lines))
        terminal.type("psq")
        assert terminal.ended() == 0
    del pools


def test_enter_asks_why_and_r_resizes(folder: Path) -> None:
    body = """
    mempool.watch.publish(steer=True)
    pool = Pool(Objects(object), 3, name='frames', track="holders")
    held = pool.alloc()
    ready()
    """
    with Program(body), OnTerminal(*TOP) as terminal:
        terminal.shows(lambda lines: "frames" in "".join(lines))
        terminal.type("\r")
        terminal.shows(lambda lines: "MainThread" in "".join(lines))
        terminal.type("r")
        terminal.shows(lambda lines: "3 now" in lines[-1])
        terminal.type("x\x7f7\r")
        terminal.shows(lambda lines: "7 promised, 0 unfunded" in "".join(lines))
        terminal.type("q")
        assert terminal.ended() == 0
        assert watch.find("frames").stats().reserve == 7


def test_it_follows_the_size_of_the_terminal(folder: Path) -> None:
    watch.publish()
    pool = Pool(Objects(object), 3, name="frames")
    with OnTerminal(*TOP) as terminal:
        terminal.shows(lambda display: "frames" in "".join(display))
        for columns, lines in [(80, 24), (40, 8), (20, 4), (200, 50), (10, 3)]:
            terminal.resize(columns, lines)
            terminal.screen.reset()  # what is seen from here on was drawn for this size
            end = 3 * columns + 30
            terminal.shows(lambda display, end=end: "frames" in "".join(display)[:end])
            assert (len(terminal.screen.display[0]), len(terminal.screen.display)) == (columns, lines)
        terminal.type("q")
        assert terminal.ended() == 0
    del pool


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1)])
def test_the_terminal_is_given_back_after_a_signal(folder: Path, number: signal.Signals, status: int) -> None:
    watch.publish()
    pool = Pool(Objects(object), 3, name="frames")
    with OnTerminal(*TOP) as terminal:
        terminal.shows(lambda lines: "frames" in "".join(lines))
        os.kill(terminal.process.pid, number)
        assert terminal.ended() == status
    del pool


def test_the_terminal_is_given_back_after_an_exception(folder: Path) -> None:
    script = """
import mempool.cli.top.program as program
class Fails:
    looks = 0
    def rows(self):
        self.looks += 1
        if self.looks == 3:
            raise RuntimeError("on purpose")
        return []
program.run(Fails(), 0.05)
"""
    with OnTerminal("-c", script) as terminal:
        terminal.shows(lambda lines: "no pool is shown" in "".join(lines))
        assert terminal.ended() == 1
        assert terminal.process.stderr is not None
        assert b"on purpose" in terminal.process.stderr.read()


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_it_is_drawn_resized_and_given_back_in_tmux(folder: Path) -> None:
    """A terminal that somebody else wrote: what it shows, that it follows a smaller window, and the shell's screen after."""
    watch.publish()
    pool = Pool(Objects(object), 3, name="frames")
    socket = f"mempool-test-{os.getpid()}"

    def tmux(*arguments: str) -> str:
        all_of_it = ["tmux", "-L", socket, "-f", "/dev/null", *arguments]
        return subprocess.run(all_of_it, capture_output=True, text=True, check=True).stdout

    def screen() -> list[str]:
        return tmux("capture-pane", "-p").splitlines()

    command = shlex.join([sys.executable, *TOP])
    tmux("new-session", "-d", "-x", "120", "-y", "12", "sh")
    try:
        tmux("send-keys", f"echo before; {command}; echo status $?", "Enter")
        wait_until(lambda: any(line.startswith("frames") for line in screen()), timeout=60)
        lines = screen()
        assert lines[0].startswith("mempool top   1 process, 1 pool")
        assert lines[-1].startswith(" q quit")
        assert not any(line.endswith("before") for line in lines)
        tmux("resize-window", "-x", "60", "-y", "8")
        wait_until(lambda: len(screen()) == 8 and screen()[-1].startswith(" q quit"), timeout=60)
        assert max(map(len, screen())) <= 60
        assert any(line.startswith("frames") for line in screen())
        tmux("send-keys", "q")
        wait_until(lambda: "status 0" in screen(), timeout=60)
        assert any(line.endswith("before") for line in screen()), "the screen from before is not given back"
        assert not any(line.startswith("frames") for line in screen())
    finally:
        tmux("kill-server")
    del pool


def test_piped_it_is_a_table(folder: Path) -> None:
    watch.publish()
    pool = Pool(Objects(object), 3, name="frames")
    command = [sys.executable, "-m", "mempool", "top"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["POOL", "frames"]
    assert "\x1b" not in ended.stdout
    del pool


def test_it_is_small(folder: Path) -> None:
    """People leave it open: at most 16 MiB, with none of the pools' modules."""
    watch.publish()
    pools = [Pool(Objects(object), 1, name=f"pool {number}") for number in range(90)]
    with OnTerminal(*TOP, lines=100) as terminal:
        terminal.shows(lambda lines: "pool 89" in "".join(lines))
        status = Path(f"/proc/{terminal.process.pid}/status").read_text()
        resident = int(status.split("VmRSS:")[1].split()[0])
        maps = Path(f"/proc/{terminal.process.pid}/maps").read_text()
        print(f"{resident / 1024:.1f} MiB")
        assert resident <= 16 * 1024
        assert "fast_path" not in maps
        terminal.type("q")
        assert terminal.ended() == 0
    del pools


def test_it_loads_few_modules() -> None:
    """None of the pools', nor of Python's own the large ones. Without a terminal it ends once it has what it needs."""
    script = """if True:
        import sys, termios
        path = sys.argv.pop()
        try:
            exec(compile(open(path).read(), path, "exec"), {"__name__": "__main__", "__file__": path})
        except termios.error:
            import mempool.shared.glance  # as it does beside a shared pool
            print(*sys.modules)
        """
    command = [sys.executable, "-I", "-S", "-c", script, program.__file__]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
    loaded = set(ended.stdout.split())
    assert {"mempool.watch.reader", "mempool.watch.rates", "mempool.shared.layout"} <= loaded, ended.stderr
    assert not loaded & {"mempool.pool", "mempool.watch.page", "annotationlib", "ast", "inspect", "pathlib", "subprocess"}


def test_it_is_small_beside_fifty_processes(folder: Path) -> None:
    """It keeps of each page what is in use, and not all of its 64 KiB."""
    watch.publish()
    pools = [Pool(Objects(object), 1, name=f"pool {number}") for number in range(3)]
    page = next(watch.processes())._page.path
    locked = []
    for number in range(50):  # as if others had written them
        copy = Path(page).with_name(f"{4_000_000 + number}-1-00.page")
        copy.write_bytes(Path(page).read_bytes())
        locked.append(os.open(copy, os.O_RDWR))
        fcntl.fcntl(locked[-1], fcntl.F_OFD_SETLK, LOCK)
    try:
        with OnTerminal(*TOP, lines=30) as terminal:
            terminal.shows(lambda lines: "51 processes, 153 pools" in lines[0])
            frames = len(terminal.raw)
            terminal.shows(lambda lines: len(terminal.raw) > frames or terminal.type("j"))
            resident = int(Path(f"/proc/{terminal.process.pid}/status").read_text().split("VmRSS:")[1].split()[0])
            print(f"{resident / 1024:.1f} MiB")
            assert resident <= 16 * 1024
            terminal.type("q")
            assert terminal.ended() == 0
    finally:
        for fd in locked:
            os.close(fd)
    del pools


def figures(number: int, turn: int = 0) -> Figures:
    """Of a busy pool."""
    whole = {name: number + turn for name in Figures._fields if name.startswith(("from_", "made"))}
    values = dict.fromkeys(Figures._fields, 0) | whole
    values |= {"name": f"pool {number}", "number": number + 1, "reserve": 8, "keep": 16, "limit": None, "spare": turn % 8}
    values |= {
        "waits": (0,) * 5,
        "wait_histogram": (turn,) * (len(BUCKETS) + 1),
        "stable": True,
        "level": None,
        "said": None,
    }
    values |= {"closed": False, "starved": False, "waiting": turn % 3}
    return Figures(**values)  # type: ignore[arg-type]


def test_a_frame_of_150_busy_pools_is_cheap() -> None:
    """At most 2 ms of CPU, each of them changed since the last frame; asserted with room for a busy machine."""
    histories, view = Histories(), View()
    seconds = []
    for turn in range(40):
        rows = [
            Row(f"pool {number}", "busy.py", "42", number + 1, figures(number, turn), "", ("42", number))
            for number in range(150)
        ]
        began = time.thread_time()
        histories.add(rows, 100.0 + turn)
        lines = view.frame(rows, histories, head_of(rows, 0.0), 120, 50)
        seconds.append(time.thread_time() - began)
        assert len(lines) == 50
    took = sorted(seconds)[len(seconds) // 2]
    print(f"{1000 * took:.2f} ms")
    assert took < 0.002 * 5


@pytest.mark.parametrize("columns", [1, 7, 20, 40, 79, 80, 132, 250])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    histories, view = Histories(), View(colour=False)
    rows = [
        Row("プール" * 9, "p" * 40, "42", 1, figures(1), "", ("42", 1)),
        Row("?", "?", "7", 0, None, "newer, layout 2", ("7", 0)),
    ]
    histories.add(rows, 1.0)
    for line in view.frame(rows, histories, head_of(rows, 1.0), columns, 9):
        plain = line.replace("\x1b[7m", "").replace("\x1b[1m", "").replace("\x1b[0m", "")
        assert sum(2 if letter in "プール" else 1 for letter in plain) <= columns, line


def test_the_quantiles_of_a_histogram() -> None:
    waits = [0] * (len(BUCKETS) + 1)
    assert quantile(waits, 0.5) is None
    waits[3], waits[10], waits[-1] = 98, 1, 1
    assert (quantile(waits, 0.5), quantile(waits, 0.99), quantile(waits, 1.0)) == (BUCKETS[3], BUCKETS[10], float("inf"))


def test_the_sparkline_is_as_high_as_the_promise() -> None:
    histories = Histories()
    for turn, spare in enumerate((8, 4, 0, 20)):
        values = figures(1)._replace(spare=spare)
        histories.add([Row("a", "b", "1", 1, values, "", ("1", 1))], 3.0 * turn + 0.5)
    assert histories.of["1", 1].sparkline() == "█▅▁█"
