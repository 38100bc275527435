"""Elements that one process offers and another adopts: nothing is copied, nothing is lost, and each has one owner."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from frames import SIZE, attach, make, other_folder
from shared_children import Parent, child

from mempool import Buffer
from mempool.errors import DoubleFree, ForeignElement, PoolClosed, StaleToken, UseAfterFree
from mempool.shared import listing
from mempool.shared.passing import Token
from mempool.shared.pool import SharedPool
from mempool.testing import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def filled(pool: SharedPool, byte: int) -> Buffer:
    buf = pool.alloc()
    buf.fill(byte)
    return buf


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """What is sent into the first comes out of the second."""
    one, two = socket.socketpair()
    with one, two:
        yield one, two


def is_whole(pool: SharedPool) -> bool:
    """All is back, and the words agree."""
    return pool.reclaim() + pool.out + pool.stats().offered == 0 and pool.verify() == []


# -- one process on both sides


def test_what_is_offered_is_dead_here_and_alive_where_it_is_adopted(pool_path: Path) -> None:
    """The same memory, uncopied; it is out all the time, and whoever has it frees it."""
    pool, other = make(pool_path), attach(pool_path)
    buf = filled(pool, 7)
    address = buf.address
    token = pool.offer(buf)
    with pytest.raises(UseAfterFree):
        len(buf)
    with pytest.raises(DoubleFree):
        pool.free(buf)
    with pytest.raises(DoubleFree):
        pool.offer(buf)
    assert (pool.out, pool.stats().offered, other.stats().offered) == (1, 1, 1)
    adopted = other.adopt(token)
    assert (bytes(adopted), pool.stats().offered, pool.out) == (b"\7" * SIZE, 0, 1)
    adopted.fill(8)
    with pytest.raises(ForeignElement):
        pool.free(adopted)
    back = pool.adopt(other.offer(adopted))
    assert (back[0], back.address) == (8, address)
    pool.free(back)
    assert is_whole(pool)


def test_a_pool_that_nobody_refers_to_is_gone_once_what_it_has_offered_is_adopted(pool_path: Path) -> None:
    """Nobody tells it of the adoption: it is looked at when this process makes or attaches another pool."""
    other = make(pool_path)
    pool = attach(pool_path)
    client = weakref.ref(pool._engine.client)
    token = pool.offer(filled(pool, 7))
    del pool
    gc.collect()
    assert client() is not None, "what is offered would be reclaimed"
    other.free(other.adopt(token))
    attach(pool_path)
    gc.collect()
    assert client() is None
    assert is_whole(other)


def test_a_buffer_that_is_viewed_is_not_offered(pool_path: Path) -> None:
    """BufferError, and nothing has changed; without the view it is."""
    pool = make(pool_path)
    buf = filled(pool, 1)
    view = buf[:3]
    with pytest.raises(BufferError, match="viewed through 1 view, and who looks"):
        pool.offer(buf)
    assert (bytes(buf[:2]), pool.stats().offered, pool.pending()) == (b"\1\1", 0, [])
    view.release()
    del view
    pool.free(pool.adopt(pool.offer(buf)))
    with pytest.raises(ForeignElement):
        pool.offer("no buffer")  # type: ignore[arg-type]
    foreign = make(pool_path, folder=other_folder(pool_path))
    buf = foreign.alloc()
    with pytest.raises(ForeignElement):
        pool.offer(buf)
    foreign.free(buf)
    assert is_whole(pool)


def test_an_offer_for_which_there_is_no_memory_has_not_happened(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the offer needs is there before the buffer is dead: it is the caller's as before."""
    pool = make(pool_path)
    buf = filled(pool, 3)

    def none(*_: object) -> Any:
        raise MemoryError

    for call in ("returning", "note_offer"):
        with monkeypatch.context() as patch:
            patch.setattr(type(pool._engine), call, none)
            with pytest.raises(MemoryError):
                pool.offer(buf)
        assert (bytes(buf[:2]), pool.out, pool.pending()) == (b"\3\3", 1, [])
    pool.free(pool.recall(pool.offer(buf)))
    assert is_whole(pool)


def twice(pool: SharedPool, other: SharedPool) -> tuple[Token, list[Buffer]]:
    token = pool.offer(pool.alloc())
    return token, [other.adopt(token)]


def after_a_recall(pool: SharedPool, _other: SharedPool) -> tuple[Token, list[Buffer]]:
    token = pool.offer(pool.alloc())
    return token, [pool.recall(token)]


def recalled_and_offered_again(pool: SharedPool, other: SharedPool) -> tuple[Token, list[Buffer]]:
    token = pool.offer(pool.alloc())
    return token, [other.adopt(pool.offer(pool.recall(token)))]


def freed_and_offered_again(pool: SharedPool, other: SharedPool) -> tuple[Token, list[Buffer]]:
    token = pool.offer(pool.alloc())
    other.free(other.adopt(token))
    again = pool.offer(pool.alloc())
    assert again.slot == token.slot
    return token, [pool.recall(again)]


def forged(pool: SharedPool, _other: SharedPool) -> tuple[Token, list[Buffer]]:
    return Token(str(pool._file), pool._engine.client.nonce, 1 << 40, 1, None), []


@pytest.mark.parametrize("story", [twice, after_a_recall, recalled_and_offered_again, freed_and_offered_again, forged])
def test_a_stale_token_is_worth_nothing(
    pool_path: Path, story: Callable[[SharedPool, SharedPool], tuple[Token, list[Buffer]]]
) -> None:
    """Adopted twice, or after a recall, or when the same element was offered anew: StaleToken, and nothing has changed."""
    pool, other = make(pool_path), attach(pool_path)
    token, held = story(pool, other)
    before = pool.stats()
    for user in (pool, other):
        with pytest.raises(StaleToken, match="is over"):
            user.adopt(token)
        with pytest.raises(StaleToken, match="nothing to recall"):
            user.recall(token)
    assert pool.stats() == before
    for buf in held:
        (pool if buf.block.owner is pool._engine.owner else other).free(buf)
    assert is_whole(pool)


def test_a_token_of_another_pool_is_stale(pool_path: Path) -> None:
    """Of another name, and of the same name before it was made anew."""
    before = make(pool_path)
    token = before.offer(before.alloc())
    before.unlink()
    with make(pool_path) as pool:
        with pytest.raises(StaleToken, match="is of another pool"):
            pool.adopt(token)
        with pytest.raises(TypeError, match="a token is what"):
            pool.adopt("token")  # type: ignore[arg-type]
    before.free(before.recall(token))


def test_a_token_is_small_and_travels_in_any_way(pool_path: Path, sockets: tuple[socket.socket, socket.socket]) -> None:
    """Hashable, equal to its copy, pickled by any protocol, or as bytes."""
    pool = make(pool_path)
    token = pool.offer(filled(pool, 5))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(token, protocol)) == token
    assert len(pickle.dumps(token)) < 200
    assert {token: 1}[Token.from_bytes(bytes(token))] == 1
    assert Token.from_bytes(memoryview(bytes(token))) == token
    for wrong in (b"", bytes(token)[:36], bytes(token) + b"\0"):
        with pytest.raises(ValueError, match="are no token"):
            Token.from_bytes(wrong)
    one, two = sockets
    one.sendall(bytes(token))
    buf = pool.adopt(Token.from_bytes(two.recv(4096)))
    assert buf[0] == 5
    pool.free(buf)


def test_adopting_frees_at_the_end_what_was_not_passed_on(pool_path: Path) -> None:
    """A chain of processes needs nothing else."""
    pool = make(pool_path)
    with pool.adopting(pool.offer(filled(pool, 1))) as buf:
        assert buf[0] == 1
    assert is_whole(pool)
    with pool.adopting(pool.offer(filled(pool, 1))) as buf:
        token = pool.offer(buf)
    with pytest.raises(ZeroDivisionError), pool.adopting(token):
        raise ZeroDivisionError
    assert is_whole(pool)


def test_pending_tells_what_is_still_offered(pool_path: Path) -> None:
    """Also what nobody knows the token of any more; `recall` takes each back, addressed or not."""
    pool, other = make(pool_path), attach(pool_path)
    pool.offer(pool.alloc())
    token = pool.offer(pool.alloc())
    assert len(pool.pending()) == 2
    assert token in pool.pending()
    assert other.pending() == []
    other.free(other.adopt(token))
    (left,) = pool.pending()
    pool.free(pool.recall(left))
    assert pool.pending() == []
    assert is_whole(pool)


def test_close_waits_for_what_is_offered(pool_path: Path) -> None:
    """Who has closed its share stays until what it has offered is adopted, and adopts nothing itself."""
    pool, other = make(pool_path), attach(pool_path)
    token = pool.offer(filled(pool, 3))
    theirs = other.offer(other.alloc())
    assert pool.close() == 1
    with pytest.raises(PoolClosed):
        pool.adopt(theirs)
    assert len(other._engine.client.clients()) == 2
    with other.adopting(token) as buf:
        assert buf[0] == 3
    assert pool.close() == 0
    assert len(other._engine.client.clients()) == 1
    other.free(other.recall(theirs))
    assert is_whole(other)


def test_a_pool_that_nobody_refers_to_stays_for_what_it_has_offered(pool_path: Path) -> None:
    """A function that makes one, sends and returns, has sent."""
    other = make(pool_path)

    def send() -> Token:
        pool = attach(pool_path)
        return pool.offer(filled(pool, 9))

    with other.adopting(send()) as buf:
        assert buf[0] == 9


def test_after_close_for_all_what_is_under_way_is_adopted(pool_path: Path) -> None:
    """And its memory goes when it is freed."""
    pool = make(pool_path)
    token = pool.offer(filled(pool, 2))
    assert pool.close_for_all() == 1
    buf = pool.adopt(token)
    assert buf[0] == 2
    pool.free(buf)
    assert (pool.out, pool.verify()) == (0, [])


# -- several processes, and their ends


@contextmanager
def receiver(path: Path) -> Iterator[Any]:
    """A process that has attached; it tells 1, then reads tokens of 256 bytes at most, and tells the first byte of each."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def run(parent: Parent) -> None:
        pool = attach(path)
        parent.tell(1)
        while data := its.recv(4096):
            try:
                with pool.adopting(Token.from_bytes(data)) as buf:
                    parent.tell(buf[0])
                    parent.wait()
            except StaleToken:
                parent.tell(-1)

    with child(run) as process:
        its.close()
        assert process.hear() == 1
        process.send = lambda token: mine.send(bytes(token))  # type: ignore[attr-defined]
        yield process
    mine.close()


def test_an_offerer_is_killed_before_anybody_has_adopted(
    pool_path: Path, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """What it had offered is reclaimed, and its token is stale."""
    pool = make(pool_path)
    one, two = sockets

    def run(parent: Parent) -> None:
        mine = attach(pool_path)
        one.send(bytes(mine.offer(filled(mine, 1))))
        parent.wait()

    with child(run) as process:
        token = Token.from_bytes(two.recv(4096))
        process.end(signal.SIGKILL)
    assert pool.stats().offered == 1
    assert pool.reclaim() == 1
    with pytest.raises(StaleToken, match="has ended"):
        pool.adopt(token)
    assert is_whole(pool)


def test_an_adopter_is_killed(pool_path: Path) -> None:
    """What it has adopted is its own, and is reclaimed with it; its offerer has nothing to do with it."""
    pool = make(pool_path)
    with receiver(pool_path) as process:
        process.send(pool.offer(filled(pool, 6)))
        assert process.hear() == 6
        assert (pool.out, pool.stats().offered, pool.pending()) == (1, 0, [])
        process.end(signal.SIGKILL)
    wait_until(lambda: is_whole(pool))


def test_what_is_addressed_is_its_receivers(pool_path: Path, sockets: tuple[socket.socket, socket.socket]) -> None:
    """Nobody else can adopt it, and the end of its offerer does not matter."""
    pool = make(pool_path)
    with receiver(pool_path) as process:
        one, two = sockets

        def run(parent: Parent) -> None:
            mine = attach(pool_path)
            one.send(bytes(mine.offer(filled(mine, 4), to=process.pid)))
            parent.wait()

        with child(run) as offerer:
            token = Token.from_bytes(two.recv(4096))
            assert token.to == process.pid
            with pytest.raises(StaleToken, match=f"addressed to process {process.pid}"):
                pool.adopt(token)
            with pytest.raises(StaleToken):
                pool.recall(token)
            offerer.end(signal.SIGKILL)
        pool.reclaim()
        process.send(token)
        assert process.hear() == 4
        process.go()
        process.send(token)
        assert process.hear() == -1
        process.end(signal.SIGKILL)
    wait_until(lambda: is_whole(pool))


def test_a_receiver_is_killed_before_it_has_adopted(pool_path: Path) -> None:
    """What was addressed to it is reclaimed with it: nothing to recall is left."""
    pool = make(pool_path)
    with receiver(pool_path) as process:
        token = pool.offer(pool.alloc(), to=process.pid)
        assert pool.pending() == [token]
        recalled = pool.recall(token)
        token = pool.offer(recalled, to=process.pid)
        process.end(signal.SIGKILL)
    pool.reclaim()
    with pytest.raises(StaleToken):
        pool.recall(token)
    assert is_whole(pool)


def test_a_receiver_finds_what_was_addressed_to_it_by_one_that_was_killed(pool_path: Path) -> None:
    """Between the offer and the sending of the token: nothing stays behind unseen."""
    pool = make(pool_path)

    def run(parent: Parent) -> None:
        mine = attach(pool_path)
        mine.offer(filled(mine, 8), to=os.getppid())
        parent.tell(1)
        parent.wait()

    with child(run) as process:
        process.hear()
        process.end(signal.SIGKILL)
    pool.reclaim()
    assert pool.pending() == []
    assert "this process has 1 to adopt that is addressed to it" in pool.why_empty()
    (token,) = pool.addressed()
    with pool.adopting(token) as buf:
        assert buf[0] == 8
    assert is_whole(pool)


def test_a_receiver_must_be_there_once(pool_path: Path) -> None:
    """Else nothing has changed: the buffer is alive."""
    pool = make(pool_path)
    buf = filled(pool, 1)
    with pytest.raises(ProcessLookupError, match="no process 1 uses this pool"):
        pool.offer(buf, to=1)
    second = attach(pool_path)
    with pytest.raises(ValueError, match="attached to this pool 2 times"):
        pool.offer(buf, to=os.getpid())
    assert buf[0] == 1
    second.close()
    pool.free(pool.adopt(pool.offer(buf, to=os.getpid())))
    assert is_whole(pool)


def test_a_receiver_that_ends_in_the_same_moment_takes_it_along(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there when it was looked for, and is not when the offer is in force: as if it had ended a moment later."""
    from mempool.shared import passing

    pool = make(pool_path)
    monkeypatch.setattr(passing, "_receiver", lambda _engine, _to: (1, 77))
    buf = pool.alloc()
    token = pool.offer(buf, to=12345)
    assert not buf.is_alive()
    with pytest.raises(StaleToken):
        pool.recall(token)
    assert is_whole(pool)


def test_a_child_of_a_fork_adopts_and_does_not_recall(pool_path: Path) -> None:
    """What its parent has offered it may adopt as anybody may; what it has to recall is its own alone."""
    pool = make(pool_path)
    token = pool.offer(filled(pool, 5))
    other = pool.offer(filled(pool, 6))

    def run(parent: Parent) -> None:
        assert pool.pending() == []
        with pytest.raises(StaleToken):
            pool.recall(token)
        with pool.adopting(token) as buf:
            parent.tell(buf[0])
            parent.wait()
        back = pool.offer(filled(pool, 7), to=os.getppid())
        assert pool.pending() == [back]
        parent.tell(back.number)
        parent.wait()

    with child(run) as process:
        assert process.hear() == 5
        assert (pool.pending(), pool.out) == ([other], 2)
        process.go()
        number = process.hear()
        process.go()
        assert process.end() == 0
    pool.reclaim()
    (token,) = pool.addressed()
    assert token.number == number
    pool.free(pool.adopt(token))
    pool.free(pool.recall(other))
    assert is_whole(pool)


def test_after_exec_what_was_offered_is_reclaimed(pool_path: Path, sockets: tuple[socket.socket, socket.socket]) -> None:
    """The same process id and the same start, but another program, which knows of no pool."""
    pool = make(pool_path)
    one, two = sockets

    def run(_parent: Parent) -> None:
        mine = attach(pool_path)
        one.send(bytes(mine.offer(mine.alloc())))
        os.execv(sys.executable, [sys.executable, "-c", "import signal; signal.pause()"])

    with child(run) as process:
        token = Token.from_bytes(two.recv(4096))
        wait_until(lambda: pool.reclaim() == 1)
        with pytest.raises(StaleToken):
            pool.adopt(token)
        os.kill(process.pid, 0)
    assert is_whole(pool)


def test_a_process_that_ends_leaves_what_is_addressed_and_takes_what_is_not(pool_path: Path) -> None:
    """By itself and in order: the interpreter's end is the end of its share."""
    pool = make(pool_path)
    program = f"""
import os, sys
from mempool import SharedPool
pool = SharedPool.attach("frames", folder={str(pool_path.parent)!r})
tokens = [pool.offer(pool.alloc()), pool.offer(pool.alloc(), to={os.getpid()})]
sys.stdout.buffer.write(b"".join(len(bytes(t)).to_bytes(2, "big") + bytes(t) for t in tokens))
"""
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60).stdout
    first = int.from_bytes(told[:2], "big")
    to_anybody, to_me = Token.from_bytes(told[2 : 2 + first]), Token.from_bytes(told[4 + first :])
    with pytest.raises(StaleToken):
        pool.adopt(to_anybody)
    pool.free(pool.adopt(to_me))
    assert is_whole(pool)


def double(token: Token) -> Token:
    """In a worker, which is given nothing but the token."""
    pool = SharedPool.of(token)
    assert SharedPool.of(token) is pool
    with pool.adopting(token) as buf:
        buf.fill(2 * buf[0])
        return pool.offer(buf)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing_are_sent_tokens(pool_path: Path, method: str) -> None:
    """One line each way; `SharedPool.of` finds the pool, once a process."""
    pool = make(pool_path, limit=8)
    with multiprocessing.get_context(method).Pool(1) as workers:
        tokens = workers.map(double, [pool.offer(filled(pool, byte)) for byte in (1, 2, 3)])
        got = []
        for token in tokens:
            with pool.adopting(token) as buf:
                got.append(buf[0])
    assert got == [2, 4, 6]
    wait_until(lambda: is_whole(pool))


def test_the_pool_of_a_token_may_be_gone(pool_path: Path) -> None:
    """Removed, or made anew under the same name: StaleToken, and nobody is left attached to the new one."""
    pool = make(pool_path)
    token = pool.offer(pool.alloc())
    assert SharedPool.of(token) is pool
    pool.free(pool.recall(token))
    pool.close()
    pool.unlink()
    with pytest.raises(StaleToken, match="there is no shared pool"):
        SharedPool.of(token)
    with make(pool_path) as anew:
        clients = len(anew._engine.client.clients())
        with pytest.raises(StaleToken, match="was made anew"):
            SharedPool.of(token)
        assert len(anew._engine.client.clients()) == clients


def test_what_is_offered_is_seen_from_outside(pool_path: Path) -> None:
    """`mempool ls`, `why` and `verify` look at it so."""
    pool = make(pool_path)
    pool.offer(pool.alloc())
    pool.offer(pool.alloc(), to=os.getpid())
    look = listing.look_at(pool_path.with_name("frames"))
    assert look.stats.offered == 2
    assert [(user.held, user.offered, user.addressed) for user in look.users] == [(0, 1, 1)]
    assert "holds 0, has offered 1, has 1 to adopt" in look.why
    assert "this process has offered 1 that nobody has adopted yet" in pool.why_empty()
    for token in pool.pending():
        pool.free(pool.recall(token))
    assert is_whole(pool)
