"""`mempool doctor`: it says what is so, asks for memory for real, and its status is what a script can rely on."""

from __future__ import annotations

import io
import json
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from children import run

pytest.importorskip("click")
pytest.importorskip("rich")
if not sys.platform.startswith("linux"):
    pytest.skip("what it shows is read from Linux", allow_module_level=True)

import click
from click.testing import CliRunner
from rich.console import Console

import mempool
from mempool.cli import app, kinds, machine
from mempool.cli.bench import bench
from mempool.cli.demo import demo
from mempool.cli.doctor import doctor, show_trials
from mempool.cli.watching import resize
from mempool.cli.web import web
from mempool.sources import Memory, headroom, levels, numa


def called(*arguments: str, status: int = 0) -> str:
    ended = CliRunner(env={"COLUMNS": "160"}).invoke(doctor, arguments, standalone_mode=False)
    if ended.exception is not None:
        raise ended.exception
    assert ended.return_value == status
    return ended.output


def reported(tmp_path: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    file = tmp_path / "report.json"
    called("--json", str(file), *arguments, status=status)
    report: dict[str, Any] = json.loads(file.read_text())
    return report


def test_it_shows_the_machine_and_what_it_gives() -> None:
    """Every limit and setting on which a promise depends, and every level."""
    said = called()
    for word in ("overcommit", "CommitLimit", "RLIMIT_AS", "RLIMIT_MEMLOCK", "nr_hugepages", "transparent", "control group"):
        assert word in said
    for level in levels.LEVELS:
        assert re.search(rf"^{level} +(yes|no) ", said, re.MULTILINE), said
    assert "1 MiB at level resident can be had" in said


@pytest.mark.long_on_both
def test_the_command_runs_on_this_machine(tmp_path: Path) -> None:
    """As a user calls it, with a file of figures that says the same."""
    file = tmp_path / "doctor.json"
    command = [sys.executable, "-m", "mempool", "doctor", "--json", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(file.read_text())
    assert report["held"] is True
    assert report["machine"]["implementation"] == mempool.IMPLEMENTATION
    assert [trial["what"] for trial in report["trials"]][:5] == list(levels.LEVELS)


def test_the_figures_are_the_kernels(tmp_path: Path) -> None:
    """Compared with where they are written."""
    found = reported(tmp_path)["machine"]
    assert found["overcommit_memory"] == int(Path("/proc/sys/vm/overcommit_memory").read_text())
    assert found["huge_pages"] == int(Path("/proc/sys/vm/nr_hugepages").read_text())
    memory = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert memory is not None
    assert found["memory"] == int(memory[1]) * 1024
    assert found["numa_nodes"] == numa.nodes()
    assert (found["rlimit_memlock"], found["rlimit_memlock_hard"]) == levels.rlimit("RLIMIT_MEMLOCK")


@pytest.mark.long_on_both
def test_figures_on_the_standard_output_are_all_there_is_on_it() -> None:
    """What is for a person goes to the other."""
    command = [sys.executable, "-m", "mempool", "doctor", "--json", "-"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(ended.stdout)["needed"] == "resident"
    assert "This machine" in ended.stderr


def test_a_level_that_cannot_be_had_is_the_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And the way out is said."""
    monkeypatch.setattr(levels, "lock", lambda *_: (_ for _ in ()).throw(MemoryError("no: raise it with `ulimit -l`")))
    report = reported(tmp_path, "--level", "locked", status=1)
    locked = next(trial for trial in report["trials"] if trial["what"] == "locked")
    assert (report["held"], locked["held"]) == (False, False)
    assert locked["said"] == "no: raise it with `ulimit -l`"
    assert "1 MiB at level locked CANNOT be had" in called("--level", "locked", status=1)
    assert "can be had" in called("--level", "resident")


def test_under_a_limit_it_names_the_limit() -> None:
    """In a process that may lock less than is asked for."""
    said = run("""
        from mempool.cli import main
        limit("RLIMIT_MEMLOCK", 128 << 10)
        lose_the_right_to_lock()
        os.environ["COLUMNS"] = "400"
        print(main(["doctor", "--level", "locked"]), main(["doctor", "--level", "locked", "--size", "64 KiB"]))
    """)
    assert "RLIMIT_MEMLOCK is 128 KiB" in said
    assert re.search(r"^1 0$", said, re.MULTILINE)


def test_more_than_there_is_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    """It asks for what is left and ten times more."""
    left = headroom.bytes_left()
    assert left is not None
    report = reported(tmp_path, "--size", str(10 * left.size), status=1)
    assert {trial["what"]: trial["held"] for trial in report["trials"]}["resident"] is False


def test_sizes_are_in_words_as_a_person_reads_them() -> None:
    """No counts of kB or of bytes, where MiB and GiB are meant; what is none is said to be none."""
    said = called("--size", "2 MiB")
    assert not re.findall(r"\d kB|\b0 bytes|\d{5,} bytes", said)
    assert machine._kbytes("2048 kB") == "2 MiB"
    assert machine._kbytes(None) == "unknown"


def test_what_it_took_it_gives_back() -> None:
    """Nothing stays locked."""
    before = levels.locked_bytes()
    called("--size", "256 KiB")
    assert levels.locked_bytes() == before


@pytest.mark.parametrize(
    "arguments", [["--level", "solid"], ["--size", "much"], ["--size", "0"], ["--json", "/no/such/folder/x"], ["surplus"]]
)
def test_bad_arguments_are_a_status_of_their_own(arguments: list[str]) -> None:
    """As for every command."""
    assert CliRunner().invoke(doctor, arguments).exit_code == 2


def test_a_kernel_that_lies_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks once more at what it was given."""
    memory = Memory("64 KiB")
    region = memory.take()
    assert machine.confirm(memory, region) == (True, "mincore: 16 of 16 pages resident")
    memory.level = "locked"
    assert machine.confirm(memory, region)[0] is False
    monkeypatch.setattr(levels, "pages_absent", lambda *_: 3)
    assert machine.confirm(memory, region)[0] is False
    memory.level = "resident"
    assert machine.confirm(memory, region) == (False, "mincore: 13 of 16 pages resident")


def test_a_system_that_says_nothing_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Elsewhere most of this is unknown."""
    monkeypatch.setattr(levels, "meminfo", lambda *_: {})
    monkeypatch.setattr(levels, "sysctl", lambda _: None)
    monkeypatch.setattr(headroom, "groups", list)
    monkeypatch.setattr(numa, "nodes", list)
    monkeypatch.setattr(levels, "rlimit", lambda _: (None, None))
    rows = {name: value for name, value, _note in machine.facts(machine.look())}
    assert rows["RLIMIT_AS"] == "unlimited"
    assert "memory" not in rows
    assert reported(tmp_path)["held"] is True


def test_what_the_commands_do_is_not_cut_off() -> None:
    """`mempool --help` says it of each in one line, in 60 columns, too."""
    shown = CliRunner().invoke(app.mempool, ["--help"], terminal_width=60)
    commands = shown.output.partition("Commands:")[2].split("\n")
    assert len([line for line in commands if line.strip()]) == len(app.mempool.commands)
    assert "..." not in shown.output.partition("Commands:")[2]


@pytest.mark.parametrize(("mode", "is_noted"), [(0, True), (1, True), (2, False), (3, True)])
def test_only_where_the_kernel_counts_address_space_is_it_worth_something(mode: int, is_noted: bool) -> None:
    rows = {row[0]: row[1:] for row in machine.facts(replace(machine.look(), overcommit_memory=mode))}
    assert [bool(rows[name][1]) for name in ("overcommit", "committed")] == [is_noted, is_noted]


@pytest.mark.parametrize(("setting", "said"), [("madvise", "madvise"), (None, "no transparent huge pages")])
def test_transparent_huge_pages_are_told_as_the_kernel_does(setting: str | None, said: str) -> None:
    rows = {row[0]: row[1] for row in machine.facts(replace(machine.look(), transparent_huge_pages=setting))}
    assert rows["transparent"] == said


def test_how_long_each_kind_took_is_told_in_milliseconds() -> None:
    shown = io.StringIO()
    show_trials(Console(file=shown, width=120), [machine.Trial("resident", True, "mincore", 0.0125)], 4096)
    assert re.search(r"^resident +yes +12\.50 ms +mincore *$", shown.getvalue(), re.MULTILINE)


def test_a_byte_is_enough_to_ask_for() -> None:
    assert "1 byte at level virtual can be had" in called("--size", "1", "--level", "virtual")


@pytest.mark.parametrize(("text", "said"), [("12 apples", "apples"), ("3", "3 bytes is too little"), ("5", "too much")])
def test_a_size_that_cannot_be_is_a_bad_argument(text: str, said: str) -> None:
    option: Any = None
    with pytest.raises(click.BadParameter, match=said):
        kinds.size(at_least=4, at_most=4)(option, option, text)
    assert kinds.size(at_least=4, at_most=4)(option, option, "4") == 4


def test_options_of_commands_are_read_as_they_are_told() -> None:
    """Nothing is run."""
    assert bench.make_context("bench", ["--quick"]).params["quick"] is True
    assert web.make_context("web", ["--steer"]).params == {"port": 0, "steer": True}
    with pytest.raises(click.BadParameter, match="0<=x<=65535"):
        web.make_context("web", ["--port=-1"])
    assert resize.make_context("resize", ["frames"]).params["patience"] == 30.0
    with pytest.raises(click.BadParameter, match="63 KiB is too little, 64 KiB is the least"):
        demo.make_context("demo", ["--buffer-size", "63 KiB"])


def test_the_version_names_the_core_and_the_python() -> None:
    said = CliRunner().invoke(app.mempool, ["--version"]).output
    assert said == f"mempool {mempool.__version__}, {mempool.IMPLEMENTATION} core, Python {platform.python_version()}\n"
