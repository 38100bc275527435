"""Draws docs/img/demo.svg: `python docs/img/demo.py` runs `mempool demo` and keeps its table, as a terminal shows it."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from rich.console import Console
from rich.text import Text

#: As narrow as the table: the letters are to be read on a telephone. Light on dark, so it is the same in a dark theme.
WIDTH = 60
LIBRARY = Path(sysconfig.get_path("stdlib"))
#: What a terminal is told beside words and colours: a line up, a line wiped, the beginning of the line, anything else.
CONTROL = re.compile(r"\x1b\[1A|\x1b\[2K|\r|\n|\x1b\[\?\d+[hl]")


def last_screen(printed: str) -> str:
    """What is left on the screen when all that moved has come to rest."""
    lines, at, begin = [""], 0, 0
    for control in [*CONTROL.finditer(printed), None]:
        lines[at] += printed[begin : control.start() if control else len(printed)]
        if control is None:
            break
        begin = control.end()
        if control[0] == "\n":
            at += 1
            lines += [""] * (at == len(lines))
        elif control[0] == "\x1b[1A":
            at -= 1
        elif control[0] == "\x1b[2K":
            lines[at] = ""
    return "\n".join(lines)


def from_the_table_on(screen: str) -> str:
    """Without what came before it."""
    lines = screen.split("\n")
    heads = [number for number, line in enumerate(lines) if "A bytearray" in line and "C queue" in line]
    return "\n".join(lines[heads[-1] :])


def main() -> None:
    """Run it, in a folder where the path that it prints is short, and draw it."""
    command = [sys.executable, "-m", "mempool", "demo", LIBRARY.name]
    wide = os.environ | {"COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    told = subprocess.run(command, cwd=LIBRARY.parent, env=wide, capture_output=True, check=True)
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print("[bold]$ mempool demo\n")
    console.print(Text.from_ansi(from_the_table_on(last_screen(told.stdout.decode()).strip("\n"))))
    svg = console.export_svg(title="mempool demo", unique_id="demo")
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL).replace("Fira Code, ", "")  # nothing is fetched
    Path(__file__).with_name("demo.svg").write_text(svg, "utf-8")


if __name__ == "__main__":
    main()
