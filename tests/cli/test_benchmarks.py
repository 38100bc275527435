"""The benchmarks run and print; how fast anything is, is not asserted anywhere."""

import importlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")
if importlib.util.find_spec("mempool.benchmarks") is None:
    pytest.skip(
        "mempool is not installed, and the benchmarks lie outside of src; `make test` installs", allow_module_level=True
    )

from mempool.benchmarks import GROUPS, contended, measure, peers, resident
from mempool.benchmarks.measure import Point, Row, Target
from rich.console import Console

from mempool import benchmarks
from mempool.buffer import EXPORTS
from mempool.cli import main
from mempool.cli.bench import bench

pytestmark = pytest.mark.long_on_both

TREE = Path(__file__).resolve().parent.parent.parent


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mempool", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.long_on_both
def test_a_quick_run_prints_ratios_beside_their_targets(tmp_path: Path) -> None:
    """`--json` writes the same figures: median, spread and verdict."""
    figures = tmp_path / "figures.json"
    done = run("asynchronous", "--quick", "--json", figures)
    assert done.returncode == 0, done.stderr
    assert "await alloc_async + free" in done.stdout
    assert "at most 0.4 x" in done.stdout
    assert "targets: " in done.stdout
    written = json.loads(figures.read_text("utf-8"))
    assert written["machine"]["core"] in done.stdout
    for row in written["rows"]:
        assert row["lowest"] <= row["figure"] <= row["highest"]
    assert written["rows"][0]["verdict"] in ("met", "missed")


@pytest.mark.parametrize("scene", ["running_out.jobs", "uncontended.views", "contended.brief_turns"])
def test_a_scene_that_no_other_test_runs_ends_in_figures(monkeypatch: pytest.MonkeyPatch, scene: str) -> None:
    group, function = scene.split(".")
    module = importlib.import_module(f"mempool.benchmarks.{group}")
    monkeypatch.setattr(module, "ROUNDS_QUICK", 1)
    rows = list(getattr(module, function)(quick=True))
    assert rows or (function == "views" and not EXPORTS)
    for row in rows:
        assert row.group == module.GROUP
        assert (row.verdict in ("met", "missed")) == (row.target is not None)
    targets = [row.target for row in rows]
    assert any(targets) if function == "brief_turns" else all(targets)  # there, some only tell of the machine


def test_a_group_that_does_not_exist_is_an_error_that_names_those_that_do() -> None:
    done = run("nonsense")
    assert done.returncode == 2
    assert ", ".join(GROUPS) in done.stderr


def test_every_group_is_a_file_and_is_named_in_the_help() -> None:
    """A group without a file, or one that nobody could find, would be no group."""
    for group in GROUPS:
        assert group == importlib.import_module(f"mempool.benchmarks.{group}").GROUP
    assert bench.help is not None
    assert ", ".join(GROUPS) in bench.help


def test_each_figure_of_the_page_has_the_command_that_prints_it() -> None:
    """Each section of how-fast.md stands beside its command, and each group of the command beside a section."""
    page = (TREE / "docs" / "explanation" / "how-fast.md").read_text("utf-8")
    rows = re.findall(r"^\| \[(.+)\]\((\S+)\) \| (.*`mempool bench .*) \|$", page, re.MULTILINE)
    assert [section for section, target, _ in rows if target.startswith("#")] == re.findall(r"^## (.+)$", page, re.MULTILINE)
    named = [
        group for _, _, cell in rows for groups in re.findall(r"`mempool bench ([\w ]+)`", cell) for group in groups.split()
    ]
    assert sorted(named) == sorted(GROUPS)


def test_a_peer_that_is_not_installed_is_named_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "object_pool", None)  # import then fails as if it were not there
    found = peers.find(peers.of_object_pool)
    assert isinstance(found, peers.Missing)
    assert "object_pool" in found.why


@pytest.mark.parametrize(
    ("target", "figure", "verdict"),
    [
        (Target(2.0), 2.0, "met"),
        (Target(2.0), 2.01, "missed"),
        (Target(0.9, at_most=False), 0.9, "met"),
        (Target(0.9, at_most=False), 0.89, "missed"),
        (Target(2.0), None, "not measured"),
        (None, 9.0, ""),
    ],
)
def test_a_verdict_is_what_the_figure_says(target: Target | None, figure: float | None, verdict: str) -> None:
    """At the bound itself a target is met; what was not measured is not met."""
    assert Row("group", "what", "beside", figure, target=target).verdict == verdict


def test_a_row_is_steady_when_every_round_gave_one_verdict() -> None:
    assert measure.row_of("group", "what", "beside", [1.0, 1.5, 2.0], target=Target(2.0)).is_steady
    assert not measure.row_of("group", "what", "beside", [1.0, 1.5, 2.1], target=Target(2.0)).is_steady


def test_fairness_and_percentiles_are_those_of_the_textbook() -> None:
    """Jain's index: 1 when all got the same, 1/n when one got all."""
    assert measure.jain([5, 5, 5, 5]) == 1.0
    assert measure.jain([7, 0, 0, 0]) == 0.25
    assert measure.percentile(range(1000), 0.999) == 999
    assert measure.percentile([3.0], 0.5) == 3.0


def test_rounds_are_interleaved_and_each_begins_with_another_contestant() -> None:
    order: list[str] = []

    def contestant(name: str) -> measure.Contestant:
        return lambda: order.append(name) or 1.0  # type: ignore[func-returns-value]

    measure.in_rounds({name: contestant(name) for name in "abc"}, 3)
    assert "".join(order) == "abcbcacab"


def test_a_plot_is_drawn_for_each_group(tmp_path: Path) -> None:
    """`{group}` in the name: a file per group; otherwise one file with a panel per group."""
    pytest.importorskip("matplotlib")
    plots = importlib.import_module("mempool.benchmarks.plots")
    rows = {
        "uncontended": [
            Row("uncontended", name, "deque", 1.0, point=Point(name, 0.0, y)) for name, y in (("a", 1e-8), ("b", 1e-6))
        ],
        "growth": [Row("growth", "pairs", "1", 1.0, point=Point("alloc + free", x, 1e-7)) for x in (1, 10, 100)],
    }
    assert plots.draw(rows, tmp_path / "one.svg", "foot") == [tmp_path / "one.svg"]
    drawn = plots.draw(rows, tmp_path / "{group}.png", "foot")
    assert [file.name for file in drawn] == ["uncontended.png", "growth.png"]
    assert (tmp_path / "one.svg").read_text("utf-8").count("<svg") == 1
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in drawn)


@pytest.mark.parametrize("name", ["plot.pdf", "no/such/folder/plot.svg"])
def test_a_plot_that_cannot_be_drawn_is_told_before_anything_is_measured(name: str, tmp_path: Path) -> None:
    done = run("asynchronous", "--plot", tmp_path / name)
    assert done.returncode == 2
    assert "--plot" in done.stderr
    assert "asynchronous" not in done.stdout


def test_a_crowd_counts_every_holder_and_how_long_he_waited() -> None:
    """Whoever has taken has given back when the run is over, and the shares of all threads make up the whole."""
    given: list[object] = []
    taken: list[object] = []

    def take() -> object:
        taken.append(object())
        return taken[-1]

    seen = contended.crowd((take, given.append), threads=3, sleep_for=0, seconds=0.01)
    assert len(taken) == len(given) > 0
    assert 0 <= seen.wait_p999 <= seen.wait_longest
    assert 1 / 3 <= seen.fairness <= 1


@pytest.mark.parametrize(("hold", "late", "sleep_for"), [(0.001, 0.0004, 0.0006), (0.0001, 0.0004, 1e-6), (0, 0.0004, 0)])
def test_who_holds_an_element_is_woken_by_so_much_earlier_as_he_would_wake_late(
    monkeypatch: pytest.MonkeyPatch, hold: float, late: float, sleep_for: float
) -> None:
    """All contestants alike; where an element is hardly held, at once; and where it is not held, nobody sleeps."""
    asked = []

    def crowd(_way: object, _threads: int, sleep_for: float, _seconds: float) -> contended.Crowd:
        asked.append(sleep_for)
        return contended.Crowd(1.0, 0.0, 0.0, 1.0)

    monkeypatch.setattr(contended, "lateness", lambda _threads, _hold: late)
    monkeypatch.setattr(contended, "crowd", crowd)
    crowds, _missing = contended.measured(contended.Scene(4, 2, hold), 0.01, 1, control=True)
    assert asked == [pytest.approx(sleep_for)] * len(crowds)


def test_how_late_a_thread_wakes_is_measured() -> None:
    assert 0 < contended.lateness(2, 0.001) < 1


@pytest.mark.long_on_both
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the resident size is read from /proc")
def test_bookkeeping_is_measured_in_a_child_of_its_own() -> None:
    """A deque costs a pointer for each element, and a pool that has them all on its free list at least that."""
    deque = resident.in_a_child("bookkeeping", "collections.deque", 200_000)
    pool = resident.in_a_child("bookkeeping", "pool, track=identity", 200_000)
    assert deque["spare"] < 16
    assert pool["spare"] >= 8
    assert pool["out"] >= pool["spare"]


def test_a_peer_that_a_child_lacks_is_an_import_error() -> None:
    with pytest.raises(ImportError):
        resident.in_a_child("burst", "pyarrow, nonesuch", 65536, 2)


def test_what_was_measured_before_an_interrupt_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes of measuring are not thrown away with the group that was interrupted."""

    def measure_one(group: str, *, quick: bool) -> Iterator[Row]:
        if group == "growth":
            raise KeyboardInterrupt
        yield Row(group, f"measured, quick: {quick}", "nothing", 1.0, 1.0, 1.0)

    monkeypatch.setattr(benchmarks, "run", measure_one)
    figures = tmp_path / "figures.json"
    assert main(["bench", "memory", "growth", "--json", str(figures)]) == 130
    assert [row["what"] for row in json.loads(figures.read_text("utf-8"))["rows"]] == ["measured, quick: False"]


ROWS = {
    "uncontended": [
        Row("uncontended", "alloc + free", "deque.pop + append", 1.1, 1.0, 1.2, target=Target(1.15)),
        Row("uncontended", "with pool.lease()", "deque.pop + append", 4.5, 4.0, 5.0, target=Target(3.2)),
        Row("uncontended", "generic-pool", "alloc + free", target=Target(12, at_most=False), note="pip install '.[bench]'"),
    ]
}


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_verdict_comes_first_and_all_of_it_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few lines, then the table; on a narrow terminal a few lines for each row; and [brackets] are kept."""
    report = importlib.import_module("mempool.benchmarks.report")
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, highlight=False, markup=False)
    monkeypatch.setattr(report, "Console", lambda **_options: screen)
    report.print_report(ROWS)
    lines = [line.rstrip() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    assert lines[1] == "targets: 1 met, 1 missed, 1 not measured"
    assert lines[2].startswith("  missed: with pool.lease()")
    assert "  not measured (the tables say why): generic-pool" in lines
    shown = "".join(lines)
    assert "'.[bench]'" in shown
    assert shown.index("targets:") < shown.index("uncontended")
    assert "\u2026" not in shown


@pytest.mark.stress
@pytest.mark.parametrize("group", GROUPS)
def test_every_group_runs_to_its_end(group: str) -> None:
    """With all its peers or without."""
    done = run(group, "--quick")
    assert done.returncode == 0, done.stderr
    assert "targets: " in done.stdout
