"""What is made of a pool's figures: what is lacking, rates, words, rows and metrics. Nothing is published here."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mempool import Objects, Pool
from mempool.export import own
from mempool.export.families import Family, counts_of, text_of
from mempool.watch import rates, shared_pools, sources, words
from mempool.watch.layout import BUCKETS, Figures
from mempool.watch.rates import MARKS, History
from mempool.watch.reader import rows_of


def figures(**given: Any) -> Figures:
    """Of a pool of which nothing else is known."""
    values: dict[str, Any] = dict.fromkeys(Figures._fields, 0) | dict.fromkeys(("limit", "level", "said"))
    values |= {"name": "frames", "number": 1, "closed": False, "starved": False, "stable": True}
    values |= {"waits": (0,) * 5, "wait_histogram": (0,) * (len(BUCKETS) + 1)}
    return Figures(**values | given)


@pytest.mark.parametrize(
    ("reserve", "spare", "out", "fills", "parts"),
    [
        (8, 3, 2, 0, (2, 0, 3)),
        (8, 3, 2, 1, (2, 3, 0)),
        (8, 3, 9, 1, (5, 0, 0)),
        (8, 0, 0, 0, (0, 0, 8)),
        (2, 5, 1, 1, (0, 0, 0)),
    ],
)
def test_what_the_reserve_lacks_is_owed_being_made_or_unfunded(
    reserve: int, spare: int, out: int, fills: int, parts: tuple[int, int, int]
) -> None:
    f = figures(reserve=reserve, spare=spare, out=out, fills=fills)
    assert (f.owed, f.filling, f.unfunded) == parts


@pytest.mark.parametrize(("now", "unfunded"), [((8, 3, 2, 1), 2), ((2, 5, 0, 0), 0), ((8, 3, 2, 3), 0)])
def test_of_the_own_pools_the_same_is_told(
    monkeypatch: pytest.MonkeyPatch, now: tuple[int, int, int, int], unfunded: int
) -> None:
    seen = Pool(Objects(object), 0)._engine.snapshot()
    seen = seen._replace(**dict(zip(("reserve", "spare", "owed", "filling"), now, strict=True)))
    monkeypatch.setattr(own.lifecycle, "engines", lambda: [SimpleNamespace(name="frames", snapshot=lambda: seen)])
    gauges, _counts = own.own_figures()
    assert [gauge.unfunded for gauge in gauges.values()] == [unfunded]


def test_waits_that_ended_without_an_element_are_those_that_were_given_up_or_closed() -> None:
    counts = counts_of(figures(waits=(0, 5, 3, 4, 2)))
    assert tuple(counts)[4:7] == (5, 2, 7)


def test_a_whole_number_is_written_without_a_point() -> None:
    family = Family("m", "gauge", "Help.", [("", (("pool", "p"),), 3.0), ("", (("pool", "q"),), 0.5)])
    assert text_of([family]) == '# HELP m Help.\n# TYPE m gauge\nm{pool="p"} 3\nm{pool="q"} 0.5\n'


def test_failures_are_told_by_the_second() -> None:
    history = History(figures(source_failures=3), 10.0)
    history.add(figures(source_failures=6), 12.0)
    assert history.failures == 1.5


def test_a_promise_that_is_almost_there_is_almost_as_high_as_one_that_is() -> None:
    for spare in range(10):
        line = History(figures(reserve=8, spare=spare), 10.0).sparkline()
        assert line == MARKS[min(spare, 7)]


@pytest.mark.parametrize(
    ("text", "percent"),
    [("some avg10=1.25 avg60=0.00 avg300=0.00 total=1\nfull avg10=7 ...\n", 1.25), ("", None), ("some avg10=much\n", None)],
)
def test_the_pressure_is_what_the_kernel_says_or_unknown(
    monkeypatch: pytest.MonkeyPatch, text: str, percent: float | None
) -> None:
    monkeypatch.setattr(rates, "open", lambda *_file, **_options: io.StringIO(text), raising=False)
    assert rates.memory_pressure() == percent

    def refuse(*_file: object, **_options: object) -> None:
        raise FileNotFoundError("no pressure stall information")

    monkeypatch.setattr(rates, "open", refuse, raising=False)
    assert rates.memory_pressure() is None


def test_a_sentence_tells_what_there_is_to_tell() -> None:
    assert words.sentence(figures(reserve=2, spare=2)) == "2 promised, 2 spare, 0 out, 0 in line"
    said = words.sentence(figures(lingering=2, source_failures=1))
    assert said.endswith("; 2 of those out freed already, and kept by views; the source has failed once")
    assert words.sentence(figures(source_failures=3, said="MemoryError")).endswith("failed 3 times, last with MemoryError")


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "-"), (5e-6, "5µs"), (1e-3, "1ms"), (0.002, "2ms"), (0.5, "500ms"), (1.0, "1s"), (3.2, "3s")],
)
def test_a_time_in_few_letters(value: float | None, said: str) -> None:
    assert words.seconds(value) == said


def test_what_is_no_pool_has_no_number() -> None:
    """Pools have those from 1 on."""
    header = SimpleNamespace(argv0="busy.py", without_slot=3)
    slots = [SimpleNamespace(why="torn")]
    pages: list[Any] = [
        SimpleNamespace(pid=42, header=header, why="", stem="42", pools=[], unreadable=slots),
        SimpleNamespace(pid=43, header=None, why="newer", stem="43", pools=[], unreadable=[]),
    ]
    rows = rows_of(pages)
    assert [(row.pool, row.number, row.figures) for row in rows] == [("?", 0, None), ("...", 0, None), ("?", 0, None)]
    assert len({row.key for row in rows}) == 3

    def glance(_name: str) -> None:
        raise ValueError("broken")

    row = shared_pools._row(SimpleNamespace(glance=glance), "frames")
    assert (row.number, row.figures, row.why) == (0, None, "unreadable: broken")


def test_a_row_is_found_on_its_page_again() -> None:
    here = sources.Here("nowhere")
    here.pages = [SimpleNamespace(stem=stem) for stem in ("41", "42")]  # type: ignore[misc]
    row: Any = SimpleNamespace(key=("42", 1))
    assert here.page_of(row) is here.pages[1]
    assert here.page_of(SimpleNamespace(key=("43", 1))) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["no_such_module:rows", "mempool.watch.sources:no_such_function"])
def test_a_source_of_rows_that_is_not_there_is_left_out(name: str) -> None:
    assert sources._load(name) is None
    found: Callable[[], Any] | None = sources._load("mempool.watch.shared_pools:rows")
    assert found is shared_pools.rows
