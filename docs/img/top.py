"""Draws docs/img/top.svg: `python docs/img/top.py` runs two programs and `mempool top` beside them, and keeps its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import pyte
from rich.console import Console
from rich.text import Text

COLUMNS, LINES = 136, 8
SECONDS = 25
SPILLER = """
import threading
from mempool import Objects, Pool
pool = Pool(Objects(object), reserve=32, limit=40, name="spill")
def work():
    while True:
        with pool.lease():
            threading.Event().wait(0.2)
for _ in range(70):
    threading.Thread(target=work, daemon=True).start()
threading.Event().wait()
"""
DECODER = """
import threading
from mempool import Faulty, Objects, Pool
source = Faulty(Objects(object))
pool = Pool(source, reserve=84, name="frames")
audio = Pool(Objects(object), reserve=8, name="audio")
source.fail_next(1_000_000_000)
pool.resize(reserve=96)
while True:
    held = pool.alloc_many(19)
    sound = audio.alloc()
    threading.Event().wait(0.01)
    pool.free_many(held)
    audio.free(sound)
"""


def screen_of(environment: dict[str, str]) -> pyte.Screen:
    """What stands on the screen of `mempool top` after some seconds."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "mempool", "top"]
    top = subprocess.Popen(command, stdin=slave, stdout=slave, env=environment, start_new_session=True)
    until = time.monotonic() + SECONDS
    while (left := until - time.monotonic()) > 0:
        if select.select([master], [], [], left)[0]:
            stream.feed(os.read(master, 65536))
    top.kill()
    top.wait()
    return screen


def text_of(screen: pyte.Screen) -> Text:
    """The screen with its colours."""
    text = Text()
    for line in range(LINES):
        for column in range(COLUMNS):
            cell = screen.buffer[line][column]
            colour = {"default": "", "brown": "yellow"}.get(cell.fg, cell.fg)
            style = " ".join(part for part in ("bold" * cell.bold, "reverse" * cell.reverse, colour) if part)
            text.append(cell.data, style or None)
        text.append("\n")
    return text


def main() -> None:
    """Run all three, and draw it."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    environment = os.environ | {"MEMPOOL_WATCH": "numbers", "MEMPOOL_WATCH_DIR": str(folder), "TERM": "xterm-256color"}
    running = []
    try:
        for name, body in (("spiller.py", SPILLER), ("decoder.py", DECODER)):
            (folder / name).write_text(body, "utf-8")
            running.append(subprocess.Popen([sys.executable, str(folder / name)], env=environment))
        screen = screen_of(environment)
    finally:
        for program in running:
            program.kill()
            program.wait()
        shutil.rmtree(folder)
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print(text_of(screen), end="")
    svg = console.export_svg(title="mempool top", unique_id="top")
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL).replace("Fira Code, ", "")  # nothing is fetched
    Path(__file__).with_name("top.svg").write_text(svg, "utf-8")
    print("\n".join(screen.display))


if __name__ == "__main__":
    main()
