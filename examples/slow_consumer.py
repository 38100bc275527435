"""Frames that are kept too long: `python slow_consumer.py FILE` takes FILE for raw video, 64 KiB a frame, again and again.

A camera fills frames of one pool for two consumers, 25 times a second. The viewer gives each frame back at once. The
motion detector means to keep the last four and has a bug: it keeps them all. Soon the viewer, which has done nothing
wrong, has no frame to show; and the pool says who has them, since when, and from which line of the program.
"""

import sys
import threading
import zlib
from pathlib import Path
from typing import BinaryIO

from mempool import Buffers, Pool, PoolTimeout

FRAME_SECONDS = 0.04


class Camera:
    """Fills frames, one after the other, for whoever asks."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.lock = threading.Lock()

    def fill(self, frame: object) -> None:
        """Put the next picture into a frame."""
        with self.lock:
            if self.file.readinto(frame[:]) < len(frame):
                self.file.seek(0)


def view(pool: Pool, camera: Camera, stop: threading.Event) -> str:
    """The viewer; returns what the pool says when there is no frame in time."""
    try:
        while not stop.wait(FRAME_SECONDS):
            with pool.lease(timeout=FRAME_SECONDS) as frame:
                camera.fill(frame)
                zlib.crc32(frame[:])  # stands for showing it
    except PoolTimeout:
        pass
    return pool.why_empty()


def detect_motion(pool: Pool, camera: Camera, stop: threading.Event) -> None:
    """The motion detector."""
    kept = []
    while not stop.wait(FRAME_SECONDS):
        if (frame := pool.try_alloc()) is not None:
            camera.fill(frame)
            kept.append(frame)  # the bug: `if len(kept) > 4: pool.free(kept.pop(0))` is missing
    pool.free_many(kept)


def main(path: Path, pool: Pool) -> str:
    """Film until the viewer has nothing to show; returns what the pool says."""
    stop = threading.Event()
    with path.open("rb") as file:
        camera = Camera(file)
        detector = threading.Thread(target=detect_motion, args=(pool, camera, stop), name="motion detector")
        detector.start()
        try:
            return view(pool, camera, stop)
        finally:
            stop.set()
            detector.join()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python slow_consumer.py FILE")
    with Pool(Buffers("64 KiB"), reserve=4, limit=8, name="frames", track="holders") as frames:
        print(main(Path(sys.argv[1]), frames))
