"""Where memory pressure is read: which source comes first, what an event is, and what happens when a source is gone."""

from __future__ import annotations

import base64
import itertools
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machines import Followed, Machine, pressure

from mempool import Objects, Pool, psi
from mempool.pressure import Pressure, follow
from mempool.psi import PressureSource
from mempool.testing import ManualClock, wait_until

pytestmark = pytest.mark.skipif(not hasattr(select, "poll"), reason="no select.poll here")


@pytest.fixture(autouse=True)
def not_under_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMORY_PRESSURE_WATCH", raising=False)
    monkeypatch.delenv("MEMORY_PRESSURE_WRITE", raising=False)


@pytest.fixture
def pool() -> Iterator[Pool[Any]]:
    with Pool(Objects(object), 8, keep=256, name="frames") as pool:
        yield pool


def source_of(pool: Pool[Any], root: Path, **options: Any) -> str:
    with follow(pool, (64, 256), root=root, thread=False, **options) as followed:
        return followed.source


# -- their order


def test_the_sources_are_tried_in_their_order(pool: Pool[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument, then systemd's, then the own control group, then the machine, then none: the one before is taken away."""
    machine = Machine(tmp_path)
    named = machine.put("elsewhere/memory.pressure", pressure(0))
    machine.put("run/watched", pressure(0))
    monkeypatch.setenv("MEMORY_PRESSURE_WATCH", "/run/watched")
    assert source_of(pool, tmp_path, source=named) == str(named)
    assert source_of(pool, tmp_path) == "/run/watched ($MEMORY_PRESSURE_WATCH)"
    monkeypatch.delenv("MEMORY_PRESSURE_WATCH")
    assert source_of(pool, tmp_path) == "/sys/fs/cgroup/app.slice/video.service/memory.pressure"
    assert machine.group is not None
    (machine.group / "memory.pressure").unlink()
    assert source_of(pool, tmp_path) == "/sys/fs/cgroup/app.slice/video.service/memory.events"
    (machine.group / "memory.events").unlink()
    assert source_of(pool, tmp_path) == "/proc/pressure/memory"
    (tmp_path / "proc/pressure/memory").unlink()
    assert source_of(pool, tmp_path).startswith("no source: this system has no pressure stall information")


def test_without_a_source_nothing_moves_and_that_is_said(
    pool: Pool[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, in the log; and by `is_following`. The pool is not even put into the range."""
    with follow(pool, (64, 128), root=tmp_path, thread=False) as followed:
        followed.look()
        assert not followed.is_following
    assert (pool.keep, followed.log) == (256, ())
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "memory pressure is not followed: " + followed.source
    ]


def test_dev_null_turns_it_off(pool: Pool[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As systemd says, although the machine has other sources."""
    Machine(tmp_path)
    monkeypatch.setenv("MEMORY_PRESSURE_WATCH", "/dev/null")
    assert source_of(pool, tmp_path) == "no source: turned off, $MEMORY_PRESSURE_WATCH is /dev/null"


@pytest.mark.parametrize(
    ("watched", "written", "said"),
    [
        ("/run/nothing", "", "No such file"),
        ("/run/text", "", "no file of pressure stall information"),
        ("/run/text", "?", "is no base64"),
    ],
)
def test_what_systemd_names_and_is_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: str, written: str, said: str
) -> None:
    """Another source is not looked for: whoever set the variable meant this one."""
    Machine(tmp_path).put("run/text", "hello\n")
    monkeypatch.setenv("MEMORY_PRESSURE_WATCH", watched)
    monkeypatch.setenv("MEMORY_PRESSURE_WRITE", written)
    assert said in source_of(Pool(Objects(object), 8), tmp_path)


def test_in_a_container_the_group_stands_at_the_root(pool: Pool[Any], tmp_path: Path) -> None:
    """The path that the process is told is the host's. The root of a container's mount has a type, the machine's none."""
    machine = Machine(tmp_path, group=None)
    machine.put("proc/self/cgroup", "0::/kubepods/pod1\n")
    machine.put("sys/fs/cgroup/memory.pressure", pressure(0))
    assert source_of(pool, tmp_path) == "/proc/pressure/memory"
    machine.put("sys/fs/cgroup/cgroup.type", "domain\n")
    assert source_of(pool, tmp_path) == "/sys/fs/cgroup/memory.pressure"


def test_beside_version_one_the_groups_stand_under_unified(pool: Pool[Any], tmp_path: Path) -> None:
    """As on machines that mount both."""
    machine = Machine(tmp_path, group=None)
    machine.put("proc/self/cgroup", "4:memory:/video\n0::/video\n")
    machine.put("sys/fs/cgroup/unified/video/memory.pressure", pressure(0))
    assert source_of(pool, tmp_path) == "/sys/fs/cgroup/unified/video/memory.pressure"


def test_a_function_is_a_source(pool: Pool[Any]) -> None:
    """It returns a percentage: whatever a program knows of its memory."""
    percents = [0.0]

    def shortage() -> float:
        return percents[-1]

    followed = follow(pool, (64, 256), source=shortage, thread=False, clock=ManualClock())
    followed.look()
    percents.append(30.0)
    followed.look()
    assert "shortage()" in followed.source
    assert [step.keep for step in followed.log] == [(256, 128)]


# -- events


def test_a_kill_in_the_group_is_pressure_whatever_the_average_says(tmp_path: Path) -> None:
    """`memory.events` counts it; what it counted before counts no more."""
    machine = Machine(tmp_path)
    machine.put("sys/fs/cgroup/app.slice/video.service/memory.events", "high 3\nmax 9\noom 1\noom_kill 1\n")
    followed = Followed(machine)
    followed.run(20, 0.0)
    assert followed.keeps() == []
    machine.put("sys/fs/cgroup/app.slice/video.service/memory.events", "high 9\nmax 99\noom 1\noom_kill 2\n")
    followed.run(2)
    assert followed.keeps() == [128]
    assert followed.pressure.log[0].why == "oom_kill 1 -> 2 in memory.events"


def test_without_an_average_the_events_of_the_group_tell(tmp_path: Path) -> None:
    """A kernel without PSI counts how often the group met its limits."""
    machine = Machine(tmp_path)
    assert machine.group is not None
    (machine.group / "memory.pressure").unlink()
    followed = Followed(machine)
    machine.put("sys/fs/cgroup/app.slice/video.service/memory.events", "high 1\nmax 0\noom 0\noom_kill 0\n")
    followed.run(2)
    assert followed.keeps() == [128]
    followed.run(120)
    assert followed.keeps() == [128, 160]


def fifo(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> int:
    """What systemd hands a service: a FIFO. Returns its writing end."""
    path = machine.put("run/pressure", "")
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setenv("MEMORY_PRESSURE_WATCH", "/run/pressure")
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


def test_where_no_event_can_come_it_is_looked_at_more_often(
    pool: Pool[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next look is that many seconds from this one. A copy of a file tells of no events, a FIFO does."""
    machine = Machine(tmp_path)
    named = machine.put("elsewhere/memory.pressure", pressure(0))
    writing = fifo(machine, monkeypatch)
    assert psi.LOOK_SECONDS_BLIND < psi.LOOK_SECONDS
    for source, seconds in ((named, psi.LOOK_SECONDS_BLIND), (None, psi.LOOK_SECONDS)):
        with follow(pool, (64, 256), root=tmp_path, source=source, thread=False) as followed:
            before = time.monotonic()
            followed._run(0)
            assert before + seconds <= followed.next_at <= time.monotonic() + seconds
    os.close(writing)


def test_a_group_that_was_removed_is_gone_and_any_other_event_is_what_was_waited_for(tmp_path: Path) -> None:
    """The kernel says so by POLLERR on what its group's file has opened."""
    source = PressureSource("group", file=tmp_path)
    source.fd_events = select.POLLPRI
    assert [source.take_event(events) for events in (0, select.POLLPRI, select.POLLIN)] == [False, True, False]
    for events in (select.POLLERR, select.POLLNVAL, select.POLLHUP, select.POLLPRI | select.POLLERR):
        with pytest.raises(psi.Gone):
            source.take_event(events)


def test_what_is_written_into_a_fifo_is_an_event_and_met_at_once(
    pool: Pool[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the thread itself, which sleeps until then; and it reads it all, else it would never sleep again."""
    writing = fifo(Machine(tmp_path), monkeypatch)
    monkeypatch.setattr(psi.Watch, "seconds", lambda _watch: 3600.0)  # until a look that no event brings
    with follow(pool, (64, 256), root=tmp_path) as followed:
        assert followed.source == "/run/pressure ($MEMORY_PRESSURE_WATCH)"
        wait_until(lambda: followed.next_at > time.monotonic())
        os.write(writing, b"x" * 3)
        wait_until(lambda: followed.log)  # the last that a step does: `keep` is another one before
        assert [(step.why, step.keep) for step in followed.log] == [("an event", (256, 128))]
        assert pool.keep == 128
        with pytest.raises(BlockingIOError):
            os.read(writing, 1)
    os.close(writing)


def test_without_events_a_fifo_says_that_all_is_calm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no percentage: a minute without an event, and `keep` grows."""
    writing = fifo(Machine(tmp_path), monkeypatch)
    followed = Followed(Machine(tmp_path), at=64)
    followed.run(62)
    assert followed.keeps() == [80]
    assert followed.pressure.log[0].why == "calm"
    os.close(writing)


def test_a_socket_is_told_what_to_watch_and_tells_events(
    pool: Pool[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`$MEMORY_PRESSURE_WRITE` is base64; when the other end is closed, another connection is made."""
    Machine(tmp_path)
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(60)
        monkeypatch.setenv("MEMORY_PRESSURE_WATCH", "/s")
        monkeypatch.setenv("MEMORY_PRESSURE_WRITE", base64.b64encode(b"some 1 2\0").decode())
        with follow(pool, (64, 256), root=tmp_path) as followed:
            first, _ = listening.accept()
            assert first.recv(100) == b"some 1 2\0"
            first.send(b"!")
            wait_until(lambda: pool.keep == 128)
            first.close()
            second, _ = listening.accept()
            assert second.recv(100) == b"some 1 2\0"
            wait_until(lambda: followed.is_following)
            second.close()


# -- sources that go


def test_a_group_that_is_gone_is_looked_for_anew(tmp_path: Path) -> None:
    """The machine's own figures are there; when the process is in another group, that one's."""
    machine = Machine(tmp_path)
    followed = Followed(machine)
    assert machine.group is not None
    (machine.group / "memory.pressure").unlink()
    (machine.group / "memory.events").unlink()
    followed.run(2)
    assert followed.pressure.source == "/proc/pressure/memory"
    machine.put("proc/self/cgroup", "0::/other\n")
    machine.put("sys/fs/cgroup/other/memory.pressure", pressure(0))
    followed.run(30)
    assert followed.pressure.source == "/sys/fs/cgroup/other/memory.pressure"


def test_a_lost_source_is_waited_for_with_longer_and_longer_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No spinning: at once, then after 1 s, 2 s and so on up to a minute; and it goes on where it comes back."""
    machine = Machine(tmp_path, group=None)
    followed = Followed(machine)
    (tmp_path / "proc/pressure/memory").unlink()
    from mempool import psi

    looked: list[float] = []
    find = psi.find
    monkeypatch.setattr(psi, "find", lambda *arguments: (looked.append(followed.clock.now()), find(*arguments))[1])
    followed.run(600, every=1.0)
    assert not followed.pressure.is_following
    gaps = [after - before for before, after in itertools.pairwise(looked)]
    assert gaps[:6] == [1, 2, 4, 8, 16, 32]
    assert set(gaps[6:]) == {60}
    assert len([message for message in caplog.messages if "not followed for now" in message]) == 1
    machine.say(50.0)
    followed.run(60, every=1.0)
    assert followed.keeps() == [128, 64]


@pytest.mark.parametrize(
    "nonsense",
    [
        *(b"some avg10=abc\n", b"", b"\n\n", b"some avg10=nan avg60=0.00\n"),
        *(b"\xff\xfe\x00", b"some\n", b"x" * 200_000, b"some avg10=\n"),
    ],
    ids=["no number", "nothing", "empty lines", "no figure", "no text", "no average", "endless", "half"],
)
def test_nonsense_in_a_file_is_a_lost_source_and_no_exception(tmp_path: Path, nonsense: bytes) -> None:
    """A half-written copy, a disk that fails. Nothing moves by it, for however long; and it goes on when that is over."""
    machine = Machine(tmp_path, group=None)
    followed = Followed(machine, at=128)
    (tmp_path / "proc/pressure/memory").write_bytes(nonsense)
    followed.run(1000)
    assert followed.pressure.source.startswith("no source")
    assert followed.keeps() == []
    machine.say(50.0)
    followed.run(60, every=1.0)
    assert followed.keeps() == [64]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["memory.pressure", "memory.events"])
def test_a_fifo_at_the_path_of_a_file_holds_nobody_up(tmp_path: Path, name: str) -> None:
    """To open one waits for a writer, and the one thread of all pools would wait with it."""
    machine = Machine(tmp_path)
    followed = Followed(machine)
    assert machine.group is not None
    (machine.group / name).unlink()
    os.mkfifo(machine.group / name)
    if name == "memory.pressure":
        followed.run(10)
        assert followed.pressure.source.endswith("/memory.events"), "the next one there is"
    else:
        followed.run(60, percent=50.0, every=1.0)
        assert followed.keeps() == [128, 64]
    os.mkfifo(tmp_path / "named")
    with pytest.raises(ValueError, match="is no source of memory pressure"):
        follow(Pool(Objects(object), 1, keep=4), (1, 4), source=tmp_path / "named", thread=False)


def test_a_function_that_returns_no_number_is_a_lost_source(tmp_path: Path) -> None:
    """It counts as calm nowhere: with it nothing grows."""
    machine = Machine(tmp_path)
    percents = [0.0, float("nan")]
    followed = Followed(machine, at=128, source=lambda: percents[-1])
    followed.run(1000)
    assert followed.keeps() == []
    assert followed.pressure.source.endswith("has returned nan, which is no percentage")
    percents.append(50.0)
    followed.run(120, every=1.0)
    assert followed.keeps() == [64]


def test_a_copy_on_a_disk_is_not_written_to(pool: Pool[Any], tmp_path: Path) -> None:
    """The trigger is for the kernel's files: anything else would lose what is in it."""
    named = tmp_path / "memory.pressure"
    named.write_text(pressure(3), "utf-8")
    source_of(pool, tmp_path, source=named)
    assert named.read_text("utf-8") == pressure(3)


def test_the_representation_tells_where_it_reads(pool: Pool[Any], tmp_path: Path) -> None:
    """And whether it is over."""
    Machine(tmp_path, group=None)
    followed: Pressure = follow(pool, (64, 256), root=tmp_path, thread=False)
    assert repr(followed) == "<Pressure on pool 'frames': /proc/pressure/memory; 0 steps>"
    followed.close()
    assert repr(followed) == "<Pressure on pool 'frames': over; 0 steps>"


def test_what_is_to_be_watched_is_written_into_a_file_of_the_kernels(tmp_path: Path) -> None:
    """A trigger: without it the file has no events."""
    trigger = tmp_path / "pressure"
    trigger.touch()
    source = PressureSource("the test", opens=trigger, writes=b"some 150000 2000000")
    source.open()
    assert (source.fd is not None, source.fd_events) == (True, select.POLLPRI)
    assert not os.get_blocking(source.fd or 0)
    source.close()
    assert trigger.read_bytes() == b"some 150000 2000000"
