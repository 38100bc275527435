"""Draws the time lines of mempool-resize.md and one-word.md: `python docs/img/timelines.py` writes the SVGs beside itself.

A race is a list of moments from top to bottom: who acts, what happens, and what the pool's numbers are afterwards. They are
drawn narrow, one below the other, each actor a step further to the right and in a colour of its own: on a telephone the
letters are then about as large as those of the text.
"""

import textwrap
from html import escape
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
WIDTH, STEP, NUMBER, LINE, PAD = 440, 12, 48, 17, 8  # pixels
LETTER = 7.2  # pixels, of a letter on average
INK, MUTED, RULE, BAD = "#1f2328", "#656d76", "#d0d7de", "#cf222e"
FILLS = ("#ddf4ff", "#fff8c5", "#dafbe1", "#fbefff")


class Moment(NamedTuple):
    """What one lane does, and the pool's numbers afterwards, one for each column; bad: here it goes wrong."""

    lane: int
    words: str
    numbers: tuple[object, ...]
    bad: bool = False


class Race(NamedTuple):
    """Lanes from left to right, the names of the numbers, and the moments."""

    title: str
    lanes: tuple[str, ...]
    columns: tuple[str, ...]
    moments: tuple[Moment, ...]


RACES = {
    "race-overflow": Race(
        "Three resizes overflow the array",
        ("A: resize to 8", "B: resize to 3", "C: resize to 5", "users"),
        ("min_nr", "curr_nr", "places"),
        (
            Moment(0, "lock; 10 held, more than 8: takes one out; unlock, to free it", (10, 9, 10)),
            Moment(1, "lock; takes out and frees six; min_nr = 3; done", (3, 3, 10)),
            Moment(2, "lock; grows: a new array of 5 places; min_nr = 5; fills it; done", (5, 5, 5)),
            Moment(0, "lock again; 5 held, no more than 8; min_nr = 8, decided long ago; done", (8, 5, 5), True),
            Moment(3, "mempool_free: 5 < 8; elements 6, 7 and 8 go behind the end", (8, 8, 5), True),
        ),
    ),
    "race-sleeper": Race(
        "A grow wakes nobody",
        ("a caller of mempool_alloc", "mempool_resize(pool, 4)"),
        ("min_nr", "curr_nr"),
        (
            Moment(0, "alloc fails, nothing is held: sleeps, at most 5 s, until a free wakes it", (1, 0)),
            Moment(1, "alloc works again: puts four elements into the array; returns 0", (4, 4)),
            Moment(0, "sleeps on beside four elements", (4, 4), True),
            Moment(0, "5 s are over: tries again, and is served", (4, 4)),
        ),
    ),
    "race-shrink": Race(
        "Frees refill what a shrink removes",
        ("mempool_resize(pool, 2)", "others"),
        ("min_nr", "curr_nr"),
        (
            Moment(0, "lock; 10 held: takes one out; unlock, to free it", (10, 9)),
            Moment(1, "mempool_free: 9 < 10, so the element goes into the pool", (10, 10)),
            Moment(0, "lock; 10 held: takes one out; unlock, to free it", (10, 9)),
            Moment(1, "mempool_free: 9 < 10 again; min_nr is stored last", (10, 10), True),
        ),
    ),
    "else-free": Race(
        "The else, first way: a free was faster",
        ("mempool_resize(pool, 4)", "a user"),
        ("min_nr", "curr_nr"),
        (
            Moment(0, "lock; min_nr = 4; 3 < 4: one is missing; unlock, to make it", (4, 3)),
            Moment(1, "mempool_free: 3 < 4, so the element goes into the pool", (4, 4)),
            Moment(0, "has made one; lock; 4 < 4 is false: the else. unlock; frees what it made", (4, 4)),
        ),
    ),
    "else-shrink": Race(
        "The else, second way: a shrink was faster",
        ("mempool_resize(pool, 4)", "mempool_resize(pool, 2)"),
        ("min_nr", "curr_nr"),
        (
            Moment(0, "lock; min_nr = 4; 3 < 4: one is missing; unlock, to make it", (4, 3)),
            Moment(1, "lock; takes one out and frees it; min_nr = 2; done", (2, 2)),
            Moment(0, "has made one; lock; 2 < 2 is false: the else. unlock; frees what it made", (2, 2)),
        ),
    ),
    "word-killed-before": Race(
        "Killed before the swap: nothing has happened",
        ("A: alloc", "B: alloc"),
        ("root", "spares", "slot 7"),
        (
            Moment(0, "reads the root: transaction 40; writes its intent 41: slot 7 is A's, 2 spares", (40, 3, "spare")),
            Moment(0, "killed", (40, 3, "spare"), True),
            Moment(1, "reads the root: 40, and that is applied; writes its intent 41: slot 7 is B's", (40, 3, "spare")),
            Moment(1, "swaps the root; writes the words", (41, 2, "B's")),
        ),
    ),
    "word-killed-after": Race(
        "Killed after the swap: all has happened",
        ("A: alloc", "B: alloc"),
        ("root", "spares", "slot 7"),
        (
            Moment(0, "writes its intent 41: slot 7 is A's; swaps the root", (41, 2, "spare")),
            Moment(0, "killed, before it has written a word", (41, 2, "spare"), True),
            Moment(1, "reads the root: 41, not applied; copies A's intent; the root still says 41", (41, 2, "spare")),
            Moment(1, "writes A's words in its place", (41, 2, "A's")),
            Moment(1, "its own transaction 42: slot 3 is B's", (42, 1, "A's")),
            Moment(1, "later: A is dead; reaps what was A's", (43, 2, "spare")),
        ),
    ),
    "word-late-helper": Race(
        "A helper that comes late does nothing",
        ("A: alloc", "B: helps", "C: free"),
        ("root", "word", "by"),
        (
            Moment(0, "swaps the root to 41: word 9 shall be 5; is stopped", (41, 4, 38)),
            Moment(1, "reads the root; copies the intent: word 9, 5; is stopped, for a week", (41, 4, 38)),
            Moment(2, "helps: word 9 is 5; then its own transaction 42: word 9 is 6", (42, 6, 42)),
            Moment(1, "goes on: word 9 was written by 42, and 42 is not before 41: left alone", (42, 6, 42)),
        ),
    ),
    "word-offer": Race(
        "An element always has an owner",
        ("A, a camera: offer", "B, a worker: adopt", "whoever waits"),
        ("slot 7", "of"),
        (
            Moment(0, "fills it; offers it: one transaction; its buffer is dead", ("offered", "A")),
            Moment(0, "sends the token; killed here, the element would be reclaimed", ("offered", "A")),
            Moment(1, "adopts it, if the slot is offered still, under the token's number", ("leased", "B")),
            Moment(1, "killed", ("leased", "B"), True),
            Moment(2, "B's lock is free, and B maps the file no more: reaps it", ("spare", "")),
            Moment(1, "a second one that has the token: the slot has another number by now: StaleToken", ("spare", "")),
        ),
    ),
}


def text(x: float, y: float, words: object, **style: object) -> str:
    """One line of text."""
    styled = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x:g}" y="{y:g}"{styled}>{escape(str(words))}</text>'


def draw(race: Race) -> str:
    """A race as SVG: time downwards, the pool's numbers at the right."""
    numbers_at = WIDTH - PAD - NUMBER * len(race.columns)
    body = [text(PAD, 22, race.title, font_weight="bold", font_size=15)]
    for column, name in enumerate(race.columns):
        at = numbers_at + NUMBER * (column + 0.5)
        body.append(text(at, 42, name, text_anchor="middle", fill=MUTED, font_size=12))
    y = 52
    for moment in race.moments:
        x = PAD + STEP * moment.lane
        room = numbers_at - 6 - x
        lines = textwrap.wrap(moment.words, int((room - 12) / LETTER))
        height = LINE * (len(lines) + 1) + 10
        stroke = BAD if moment.bad else RULE
        body.append(f'<path d="M{PAD} {y - 3}H{WIDTH - PAD}" stroke="{RULE}"/>')
        body.append(
            f'<rect x="{x}" y="{y}" width="{room}" height="{height}" rx="5" fill="{FILLS[moment.lane]}" stroke="{stroke}"/>'
        )
        body.append(text(x + 6, y + LINE, race.lanes[moment.lane], font_weight="bold"))
        body += [text(x + 6, y + LINE * (n + 2), line) for n, line in enumerate(lines)]
        for column, number in enumerate(moment.numbers):
            style = {"fill": BAD, "font_weight": "bold"} if moment.bad else {}
            at = numbers_at + NUMBER * (column + 0.5)
            body.append(text(at, y + height / 2 + 5, number, text_anchor="middle", **style))
        y += height + 6
    y += 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}" role="img">\n'
        f"<title>{escape(race.title)}</title>\n"
        f'<rect width="{WIDTH}" height="{y}" rx="6" fill="#ffffff" stroke="{RULE}"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


if __name__ == "__main__":
    for file, told in RACES.items():
        (HERE / f"{file}.svg").write_text(draw(told), "utf-8")
