"""A page is other people's bytes: its reader shows numbers or says "unreadable", and no terminal obeys what it shows."""

from __future__ import annotations

import fcntl
import os
import random
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from sweeps import LONG

from mempool import Buffers, Objects, Pool, watch
from mempool.cli.watching import list_pools
from mempool.watch import layout
from mempool.watch.reader import LOCK, Reader, read, rows_of
from mempool.watch.words import sentence, state_of


def page_of_two(folder: Path) -> bytes:
    """A page as it really is."""
    path = Path(watch.publish())
    pools = [Pool(Buffers(64), 3, name="frames"), Pool(Objects(object), 2, limit=7, name="names")]
    data = path.read_bytes()
    del pools
    watch.unpublish()
    return data


@contextmanager
def shown(folder: Path, data: bytes, name: str = "4242-1-00.page") -> Iterator[Path]:
    """A page with these bytes, whose owner lives."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    fd = os.open(path, os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, LOCK)
    try:
        yield path
    finally:
        os.close(fd)
        path.unlink()


def check(path: Path) -> None:
    """It can be read and told of; nothing that a terminal obeys is in what is told."""
    fd = os.open(path, os.O_RDONLY)
    try:
        page = read(fd, str(path))
    finally:
        os.close(fd)
    for row in rows_of([page]):
        badness, state = state_of(row.figures, row.why)
        said = f"{row.target} {row.process} {state} {sentence(row.figures) if row.figures else ''}"
        assert said.isprintable(), said
        assert badness >= 0
        if row.figures is None:
            assert row.why
        else:
            assert all(0 <= number < layout.NUMBER_MAX for number in row.figures.wait_histogram)


@pytest.mark.long_on_both
@pytest.mark.parametrize(
    "rounds", [pytest.param(5_000 if LONG else 400, id="some"), pytest.param(100_000, marks=pytest.mark.stress)]
)
def test_random_and_bit_flipped_files_are_read_without_an_exception(folder: Path, rounds: int) -> None:
    """10^5 of them by `make stress`, a sample else."""
    real = page_of_two(folder)[: layout.slot_at(3)]
    draw = random.Random(20261127)
    with shown(folder, real) as path:
        fd = os.open(path, os.O_RDWR)
        try:
            for number in range(rounds):
                kind = number % 4
                data = bytearray(real)
                if kind == 0:
                    data = bytearray(draw.randbytes(draw.choice([0, 7, 8, 100, 1023, 1024, 1663, 3000])))
                elif kind == 1:
                    for _ in range(draw.randrange(1, 64)):
                        bit = draw.randrange(8 * len(data))
                        data[bit // 8] ^= 1 << bit % 8
                elif kind == 2:  # a number of a slot, and the extremes of its kind
                    at = layout.slot_at(draw.randrange(2)) + 8 * draw.randrange(54)
                    data[at : at + 8] = struct.pack("<q", draw.choice([-1, -(2**63), 2**63 - 1, 2**62, 1, 0, -2]))
                else:
                    at = draw.randrange(len(data))
                    data[at:] = draw.randbytes(draw.randrange(len(data) - at + 1))
                os.pwrite(fd, data, 0)
                os.truncate(fd, len(data))
                check(path)
        finally:
            os.close(fd)


@pytest.mark.parametrize(
    "text",
    [
        "\x1b]0;owned\x07",
        "\x9b2J",
        "a\nb",
        "\u202egnp.exe",
        "\u2066x",
        "\x7f",
        "\u200bzero",
        "\ud800".encode("utf-16", "surrogatepass").decode("latin1"),
    ],
)
def test_names_and_programs_lose_what_a_terminal_obeys(folder: Path, text: str) -> None:
    data = bytearray(page_of_two(folder))
    raw = text.encode()
    at = layout.slot_at(0) + layout.NAME_AT
    data[at : at + layout.NAME_BYTES] = raw.ljust(layout.NAME_BYTES, b"\0")
    argv0 = layout.WITHOUT_SLOT_AT - 128
    data[argv0 : argv0 + 128] = raw.ljust(128, b"\0")
    with shown(folder, bytes(data)) as path:
        check(path)
        told = CliRunner().invoke(list_pools, [], standalone_mode=False).output
        assert all(letter == "\n" or letter.isprintable() for letter in told), repr(told)
        assert "names" in told


def test_a_page_of_a_newer_layout_is_told_as_such(folder: Path) -> None:
    """An older `top` beside a newer process."""
    data = bytearray(page_of_two(folder))
    data[8:12] = (layout.VERSION + 1).to_bytes(4, "little")
    with shown(folder, bytes(data)):
        (process,) = watch.processes()
        assert process.why_unreadable == "newer, layout 2"
        assert process.pools == ()
        assert "newer, layout 2" in CliRunner().invoke(list_pools, [], standalone_mode=False).output


@pytest.mark.parametrize("length", [layout.HEADER_BYTES, layout.HEADER_BYTES + 10, layout.slot_at(1) + 1])
def test_a_page_that_shrinks_under_its_reader_is_unreadable(folder: Path, length: int) -> None:
    """It is read and never mapped: a mapping would kill its reader (SIGBUS)."""
    with shown(folder, page_of_two(folder)[:length]) as path:
        check(path)
        (process,) = watch.processes()
        assert process._page.unreadable


def test_a_huge_page_is_read_no_further_than_a_page(folder: Path) -> None:
    data = bytearray(page_of_two(folder))
    data[20:24] = (2**31).to_bytes(4, "little")  # slots in use
    with shown(folder, bytes(data)) as path:
        os.truncate(path, 1 << 40)  # a hole
        tracemalloc.start()
        try:
            list(Reader(str(folder)).pages())
            assert tracemalloc.get_traced_memory()[1] < 8 * layout.PAGE_BYTES
        finally:
            tracemalloc.stop()
        os.truncate(path, 4096)


def test_what_is_no_file_is_passed_over(folder: Path) -> None:
    """A FIFO would stop who opens it, a link lead elsewhere."""
    folder.mkdir(mode=0o700)
    os.mkfifo(folder / "1-1-1.page")
    (folder / "2-1-1.page").symlink_to("/etc/passwd")
    (folder / "3-1-1.page").mkdir()
    assert list(watch.processes()) == []


def test_another_users_page_is_passed_over(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    with shown(folder, page_of_two(folder)) as path:
        assert len(list(watch.processes())) == 1
        os.chown(path, 12345, -1)
        assert list(watch.processes()) == []
