"""One pool of a machine, which several nodes of a fleet share: a `SharedPool`, and beside it a record of the revision.

Each of its nodes has the fleet's orders, at its own pace. So a node's own revision is not enough for "never a step back":
while a slow one still has the order before last, a fast one has done the last. Hence the record: a small file beside the
pool's, under a lock that the kernel takes from a process that is killed. The lock is held for the moment of a resize and not
while memory is made. A node that is stopped within that moment holds up the others' resizes until it goes on or is killed:
after LOCK_SECONDS they say so, by its pid, and try again later. Their pool goes on meanwhile, with the targets that it has.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mempool.fleet.member import HeldUp, Member
from mempool.fleet.values import Order, Outcome, Targets
from mempool.shared import listing
from mempool.shared.pool import SharedPool
from mempool.sources import Buffers

#: Bytes of a record: always the same, so that it is replaced by one write.
RECORD_BYTES = 512
#: Seconds for which somebody else may hold the record, until one counts as held up. It takes some microseconds; to make the
#: pool, some milliseconds.
LOCK_SECONDS = 0.5
#: Seconds between two tries to have it: at first, and at most.
TRY_SECONDS, TRY_SECONDS_MAX = 0.0002, 0.01
#: Seconds between two looks for killed processes, whose elements are returned.
RECLAIM_SECONDS = 1.0
#: How often the record may be removed by others between two looks at it.
ATTEMPTS = 100
#: Of the options of an order, those that say which pool, and how large its file.
OWN = ("shared", "slots")


class Record:
    """What the nodes of a machine know of their pool. name: the pool's."""

    def __init__(self, name: str) -> None:
        pool = listing.path_of(name)
        self._path = pool.with_name(f".{pool.name}.fleet")  # a hidden file is no pool's
        self._file = -1

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the others out. Within, `read`, `write` and `remove` work. Raises HeldUp where another does for too long."""
        for _ in range(ATTEMPTS):
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._lock(file)
                if self._is_at_its_path(file):
                    self._file = file
                    yield
                    return
            finally:
                self._file = -1
                # Before it is closed: a child that was forked meanwhile has the descriptor, too, and would go on holding it.
                fcntl.flock(file, fcntl.LOCK_UN)
                os.close(file)
        raise OSError(f"{self._path} is made and removed again all the time; find out by whom")

    def _lock(self, file: int) -> None:
        # Not a flock that waits: it would do so for as long as another process is stopped, and nothing ends it.
        deadline, pause = time.monotonic() + LOCK_SECONDS, TRY_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise HeldUp(
                        f"{self._path}, the record of the machine's pool, is held by {holder_of(file)} for more than "
                        f"{LOCK_SECONDS:g} s; it is tried again"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, TRY_SECONDS_MAX)

    def _is_at_its_path(self, file: int) -> bool:
        try:
            found = self._path.stat(follow_symlinks=False)
        except FileNotFoundError:
            return False  # the last user of before has just removed it
        held = os.fstat(file)
        return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def read(self) -> tuple[int, int, Targets] | None:
        """Whose it is (the revision that made the fleet's pool), the revision and the targets; None: nothing yet."""
        try:
            fleet, revision, targets = json.loads(os.pread(self._file, RECORD_BYTES, 0))
            return fleet, revision, Targets(*targets)
        except (TypeError, ValueError):
            return None

    def write(self, fleet: int, revision: int, targets: Targets) -> None:
        """Replace it."""
        record = json.dumps([fleet, revision, [targets.reserve, targets.keep, targets.limit]])
        os.pwrite(self._file, record.encode().ljust(RECORD_BYTES), 0)

    def remove(self) -> None:
        """Take it away: whoever waits for the lock makes a new one."""
        self._path.unlink(missing_ok=True)


def holder_of(file: int) -> str:
    """Which process holds the lock of a file, for a person: as far as the kernel tells this one."""
    there = os.fstat(file)
    place = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text("ascii").splitlines():
            _, kind, *rest = line.split()
            if kind == "FLOCK" and rest[3] == place:
                return f"process {rest[2]}{_state_of(rest[2])}"
    return "another process"


def _state_of(pid: str) -> str:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
        return ", which is stopped (kill -CONT or kill -9 ends that)," if state in "Tt" else ""
    return ""


class SharedMember(Member):
    """A node's part of the pool that it shares with the other nodes of its machine.

    Made from a fleet's order and the source that it names: `Buffers`, which says how large an element is. Raises
    RuntimeError where the name is somebody else's, TypeError for another source, HeldUp, and what `SharedPool` raises.
    """

    def __init__(self, order: Order, source: object, *, now: Callable[[], float] = time.monotonic) -> None:
        options = dict(order.options)
        self._fleet = order.born
        self._name: str = options["shared"]
        self._record = Record(self._name)
        with self._record.locked():
            self._require_name()
            pool = SharedPool(
                self._name,
                _size_of(source, order.pool),
                0,
                keep=0,
                limit=None,
                slots=options["slots"] or slots_for(order.targets),
                **{option: value for option, value in options.items() if option not in {*OWN, "offload"}},
            )
            if self._record.read() is None:
                self._record.write(self._fleet, 0, Targets(0))
        super().__init__(pool, now=now)
        self._own = pool
        self.shared: int = _token_of(pool)
        self._reclaim_at = 0.0

    def _require_name(self) -> None:
        """That the pool of this name is this fleet's, or nobody's any more."""
        there = self._record.read()
        if there is not None and there[0] == self._fleet:
            return
        try:
            users = [user for user in listing.look(self._name).users if not user.is_dead]
        except FileNotFoundError:
            return
        if users or there is None:
            whose = f"another fleet's, and is used: {'; '.join(map(str, users))}" if there else "one that no fleet has made"
            raise RuntimeError(
                f"the shared pool {self._name!r} of this machine is {whose}; give this fleet's another name, "
                f'shared="another-{self._name}"'
            )
        listing.path_of(self._name).unlink(missing_ok=True)  # of a fleet whose processes have all been killed

    def _set_targets(self, revision: int, targets: Targets) -> Any:
        with self._record.locked():
            there = self._record.read()
            if there is not None and there[0] == self._fleet and there[1] > revision:
                # Another node of the machine was faster. Its moment may not have come, if it was killed before.
                _, revision, targets = there
                self._take(revision, targets)
            # First the record: who is killed between the two has promised a later one, and the next to come sees to it.
            self._record.write(self._fleet, revision, targets)
            grew = self._own._retarget(targets.reserve, targets.keep_number, targets.limit)
        self._own._settle(grew)
        return self._own.guarantee()

    def is_due(self) -> bool:
        """Also for a look at who was killed."""
        return super().is_due() or self._now() >= self._reclaim_at

    def reconcile(self) -> Outcome:
        """And return what killed processes of the machine held."""
        self._reclaim_at = self._now() + RECLAIM_SECONDS
        try:
            if not self._own.closed:
                self._own.reclaim()
        except Exception as error:  # noqa: BLE001 - the report passes it on
            self.detail: str = f"{type(error).__name__}: {error}"
        return super().reconcile()

    def is_first(self) -> bool:
        """Whether this is the node that counts the pool, of those that share it: the one with the least number."""
        client = self._own._engine.client
        living = [user.number for user in client.clients() if not user.is_dead]
        return not living or client.number == min(living)

    def close(self) -> None:
        """This node takes no more. The last one of the machine takes the pool's name away."""
        try:
            with self._record.locked():
                client = self._own._engine.client
                if not self._own.closed:
                    self._own.reclaim()
                    others = [user for user in client.clients() if not user.is_dead and user.number != client.number]
                    if not others:
                        self._own.unlink()
                        self._record.remove()
                self._own.close()
        except HeldUp:
            self._own.close()  # whoever holds the record uses the pool, and so is not the last

    def end(self) -> int:
        """The pool is removed from the fleet: for all nodes of the machine. Returns how many elements are out."""
        with self._record.locked():
            there = self._record.read()
            if there is not None and there[0] == self._fleet:
                self._own.unlink()
                self._record.remove()
        if not self._own.closed:
            self._own.close_for_all()
        out = int(self._own.stats().out)
        self._own.close()
        return out


def slots_for(targets: Targets) -> int:
    """How many elements there may ever be, where nobody says: four times what these targets allow."""
    return 4 * max(1, targets.keep_number if targets.limit is None else max(targets.limit, targets.reserve))


def _size_of(source: object, pool: str) -> int:
    if type(source) is not Buffers:
        raise TypeError(
            f"pool {pool!r} of the fleet is shared by the processes of a machine, and so holds plain memory: its source is "
            f'Buffers, as in partial(Buffers, "24 MiB"), not {type(source).__name__}'
        )
    return source.size


def _token_of(pool: SharedPool) -> int:
    """Which pool it is, among those of all machines: 32 bits."""
    found = pool._file.stat()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return zlib.crc32(f"{boot} {found.st_dev} {found.st_ino}".encode()) or 1
