"""Draws docs/img/shared.svg: `python docs/img/shared.py` runs `mempool demo --shared` and keeps its screen, with tmux.

Above is what stands there in the middle of it, below what is left in the end.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, LINES = 80, 24
LIBRARY = Path(sysconfig.get_path("stdlib"))
PATIENCE = 60  # seconds
SOCKET = f"mempool-docs-{os.getpid()}"
COMMAND = f"mempool demo --shared {LIBRARY.name}"


def tmux(*arguments: str) -> str:
    """What this command of tmux says."""
    command = ["tmux", "-L", SOCKET, "-f", "/dev/null", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def until(pattern: str) -> str:
    """What stands on the screen, with its colours, once this does."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if re.search(pattern, tmux("capture-pane", "-p"), re.MULTILINE):
            return tmux("capture-pane", "-p", "-e")
        time.sleep(0.05)
    raise TimeoutError(f"{pattern!r} does not come:\n{tmux('capture-pane', '-p')}")


def main() -> None:
    """Record it, and draw it."""
    os.environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PS1": "$ "}
    tmux("new-session", "-d", "-x", str(COLUMNS), "-y", str(LINES), "-c", str(LIBRARY.parent), "sh")
    try:
        tmux("set-option", "status", "off")
        tmux("resize-window", "-x", str(COLUMNS), "-y", str(LINES))
        tmux("send-keys", "-l", f"{COMMAND}; echo status $?")
        tmux("send-keys", "Enter")
        middle = until(r"^ +4\.\d s ").rstrip("\n").split("\n")
        end = until("^status 0$").rstrip("\n").split("\n")
    finally:
        subprocess.run(["tmux", "-L", SOCKET, "kill-server"], check=False)
    begin = next(number for number, line in enumerate(end) if "ok " in line)
    end = end[begin : next(number for number, line in enumerate(end) if "every promise" in line) + 1]
    kept = [line for line in middle if COMMAND not in line]
    text = Text.from_ansi("\n".join([*kept, "", *end]))
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print(f"[bold]$ {COMMAND}", highlight=False)
    console.print(text)
    svg = console.export_svg(title="mempool demo --shared", unique_id="shared")
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL).replace("Fira Code, ", "")  # nothing is fetched
    Path(__file__).with_name("shared.svg").write_text(svg, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
