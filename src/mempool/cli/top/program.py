"""`mempool top` while it runs: looks at the rows, draws them, does what is typed.

Also started by itself (`python program.py`), in a process that has not loaded the pools: `command.py` does that, because a
program that people leave open shall be small.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if __name__ == "__main__":  # the package without what its __init__ loads
    from types import ModuleType

    _package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for _name in ("mempool", "mempool.watch"):
        _stub = ModuleType(_name)
        _stub.__path__ = [os.path.join(os.path.dirname(_package), *_name.split("."))]
        sys.modules[_name] = _stub

from mempool.cli.top.apart import in_a_child
from mempool.cli.top.screen import ORDERS, View, head_of
from mempool.cli.top.terminal import Terminal
from mempool.watch import client, shared_pools
from mempool.watch.directory import WatchError
from mempool.watch.rates import Histories, memory_pressure
from mempool.watch.sources import Here

if TYPE_CHECKING:
    from mempool.watch.reader import Row
    from mempool.watch.sources import RowSource

UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END = "\x1b[A", "\x1b[B", "\x1b[5~", "\x1b[6~", "\x1b[H", "\x1b[F"
STEPS = {
    UP: -1,
    "k": -1,
    DOWN: 1,
    "j": 1,
    PAGE_UP: -20,
    PAGE_DOWN: 20,
    HOME: -(10**6),
    END: 10**6,
    "g": -(10**6),
    "G": 10**6,
}


class Top:
    """The program: source gives its rows."""

    def __init__(self, source: RowSource, interval: float = 1.0) -> None:
        self.source: RowSource = source
        self.interval: float = interval
        self.histories: Histories = Histories()
        self.view: View = View(colour=not os.environ.get("NO_COLOR"))
        self.rows: list[Row] = []
        self.head: str = ""

    def look(self) -> None:
        """Read all rows anew."""
        try:
            self.rows = self.source.rows()
        except OSError as error:
            self.rows = []
            self.view.said = [str(error)]
        self.histories.add(self.rows, time.monotonic())
        self.head = head_of(self.rows, memory_pressure())

    def frame(self, columns: int, height: int) -> list[str]:
        """The lines of this moment."""
        return self.view.frame(self.rows, self.histories, self.head, columns, height)

    def run(self) -> int:
        """Until the user quits. Returns the status."""
        with Terminal() as terminal:
            due = time.monotonic()
            while True:
                now = time.monotonic()
                if now >= due:
                    if not self.view.is_paused:
                        self.look()
                    due = now + self.interval
                terminal.draw(self.frame(*terminal.size))
                typed = terminal.key(due - time.monotonic())
                if typed is None:
                    continue
                if typed == "" or not self.obey(typed, terminal):
                    return 0

    def obey(self, typed: str, terminal: Terminal) -> bool:
        """Do what was typed. False: to end."""
        view = self.view
        if typed in STEPS:
            view.said = []
            view.move(view.chosen(self.rows, self.histories), STEPS[typed])
            return True
        if typed == "q":
            return False
        if typed == "s":
            view.order = ORDERS[(ORDERS.index(view.order) + 1) % len(ORDERS)]
            view.said = [f"sorted by {view.order}"]
        elif typed == "p":
            view.is_paused = not view.is_paused
        elif typed == "/":
            view.filter = self.ask(terminal, "filter: ", view.filter) or ""
        elif typed in {"\r", "\n"}:
            self.why()
        elif typed == "r":
            self.look()  # with the number of now: it is what is expected
            self.resize(terminal)
        elif typed == "\x1b":
            view.said, view.filter = [], ""
        return True

    def ask(self, terminal: Terminal, question: str, text: str = "") -> str | None:
        """What the user types until Enter; None: Escape."""
        view = self.view
        try:
            while True:
                view.prompt = f" {question}{text}█"
                terminal.draw(self.frame(*terminal.size))
                typed = terminal.key(3600)
                if typed is None:
                    continue
                if typed in {"", "\x1b"}:
                    return None
                if typed in {"\r", "\n"}:
                    return text
                if typed in {"\x7f", "\b"}:
                    text = text[:-1]
                elif typed.isprintable():
                    text += typed
        finally:
            view.prompt = None

    def selected(self) -> Row | None:
        """The row that is selected."""
        return next((row for row in self.rows if row.key == self.view.selected), None)

    def socket_of(self, row: Row) -> str | None:
        """Where the process of this row takes commands, if it does."""
        pages = getattr(self.source, "pages", ())
        return next((page.socket_path for page in pages if page.stem == row.key[0] and page.has_socket), None)

    def why(self) -> None:
        """Ask the process of the selected row."""
        row = self.selected()
        if row is None:
            return
        if row.where == shared_pools.WHERE:
            try:
                self.view.said = [in_a_child(lambda: shared_pools.why(row.pool))]
            except WatchError as error:
                self.view.said = [str(error)]
            return
        path = self.socket_of(row)
        if path is None:
            self.view.said = [f"{row.target} takes no commands; with MEMPOOL_WATCH=steer it would say who holds what"]
            return
        try:
            answer = client.ask(path, "why", number=row.number)
            self.view.said = [str(answer.get("why")), *map(str, answer.get("steered", ()))]
        except (client.NoAnswerError, client.RefusedError) as error:
            self.view.said = [f"{row.target}: {error}"]

    def resize(self, terminal: Terminal) -> None:
        """Ask for a reserve, and have the process of the selected row promise it."""
        row = self.selected()
        if row is None or row.figures is None:
            return
        path = self.socket_of(row)
        if path is None and row.where != shared_pools.WHERE:
            self.view.said = [f"{row.target} takes no commands; run it with MEMPOOL_WATCH=steer"]
            return
        now = row.figures.reserve
        typed = self.ask(terminal, f"reserve of {row.target}, {now} now: ")
        if not typed:
            return
        if not (typed.isascii() and typed.isdigit()):
            self.view.said = [f"a reserve is a whole number, not {typed}"]
            return
        try:
            # What is expected: the number that the user saw when he decided.
            if path is None:
                self.view.said = [in_a_child(lambda: resized(row, int(typed), now))]
                return
            answer = client.ask(path, "resize", patience=10.0, number=row.number, reserve=int(typed), expect=now)
            self.view.said = [f"{row.target}: {answer.get('promised')} promised, {answer.get('unfunded')} unfunded"]
        except WatchError as error:
            self.view.said = [str(error)]
        except (client.NoAnswerError, client.RefusedError) as error:
            self.view.said = [f"{row.target}: {error}"]


def resized(row: Row, reserve: int, expect: int) -> str:
    """What came of a resize of a pool of several processes. Raises WatchError."""
    _, figures = shared_pools.resize(row.pool, reserve, keep=None, limit=None, expect=expect)
    return f"{row.target}: {figures.reserve} promised, {figures.unfunded} unfunded"


def run(source: RowSource, interval: float = 1.0) -> int:
    """Show these rows until the user quits. Returns the status."""
    try:
        return Top(source, interval).run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run(Here(), float(sys.argv[1]) if len(sys.argv) > 1 else 1.0))
