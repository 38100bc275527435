"""Draws docs/img/steered.svg: `python docs/img/steered.py`, in a clone, with tmux.

In three panes of one tmux: `make demo`, `mempool top`, and `mempool resize`, typed as a user types it. What stands on the
screen after the resize is kept, if the demo then ends with status 0.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 132
#: Lines of the panes, from above.
HEIGHTS = (17, 6, 3)
#: Seconds: in a fresh clone, `make demo` first builds what it runs.
PATIENCE = 500
CLONE = Path(__file__).parent.parent.parent
SOCKET = f"mempool-docs-{os.getpid()}"


def tmux(*arguments: str) -> str:
    """What this command of tmux says."""
    command = ["tmux", "-L", SOCKET, "-f", "/dev/null", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def screen(pane: int, *options: str) -> str:
    """What stands in this pane."""
    return tmux("capture-pane", "-p", *options, "-t", f":.{pane}")


def until(pane: int, pattern: str) -> re.Match[str]:
    """Wait until this stands in the pane."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := re.search(pattern, screen(pane), re.MULTILINE):
            return found
        time.sleep(0.05)
    raise TimeoutError(f"{pattern!r} does not come:\n{screen(pane)}")


def typed(pane: int, command: str) -> None:
    """Type it, and Enter."""
    tmux("send-keys", "-t", f":.{pane}", "-l", command)
    tmux("send-keys", "-t", f":.{pane}", "Enter")


def record() -> Text:
    """Run all of it."""
    typed(0, "MEMPOOL_WATCH=steer make demo; echo status $?")
    typed(1, "mempool top --interval 0.2")
    command = until(0, r"mempool resize demo@\d+ --reserve 24")[0]
    until(1, r"^demo ")
    typed(2, command)
    until(2, "24 promised")
    until(1, r"^demo +mempool demo \d+ +24 ")
    until(0, "a resize to reserve 24")
    shown = [Text.from_ansi(screen(pane, "-e").rstrip("\n")) for pane in range(3)]
    until(0, r"^status 0$")
    rule = Text("─" * COLUMNS, style="dim")
    return Text("\n").join([shown[0], rule, shown[1], rule, shown[2]])


def main() -> None:
    """Record it, and draw it."""
    folder = tempfile.mkdtemp(dir="/dev/shm")
    os.environ |= {
        "MEMPOOL_WATCH_DIR": folder,
        "MEMPOOL_SHARED_FOLDER": folder,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PS1": "$ ",
    }
    try:
        height = sum(HEIGHTS) + 2
        tmux("new-session", "-d", "-x", str(COLUMNS), "-y", str(height), "-c", str(CLONE), "sh")
        tmux("set-option", "status", "off")
        tmux("resize-window", "-x", str(COLUMNS), "-y", str(height))
        for lines in (HEIGHTS[1] + HEIGHTS[2] + 1, HEIGHTS[2]):
            tmux("split-window", "-v", "-l", str(lines), "-c", str(CLONE), "sh")
        text = record()
    finally:
        subprocess.run(["tmux", "-L", SOCKET, "kill-server"], check=False)
        shutil.rmtree(folder)
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print(text)
    svg = console.export_svg(title="make demo, mempool top, mempool resize: three panes of a terminal", unique_id="steered")
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL).replace("Fira Code, ", "")  # nothing is fetched
    Path(__file__).with_name("steered.svg").write_text(svg, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
