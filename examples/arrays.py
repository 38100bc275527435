"""Samples without copies: `python arrays.py FILE` takes FILE for 16-bit samples of two channels, as a WAV or raw file has.

The kernel reads into a buffer of the pool; NumPy looks at the same memory, changes it in place, and Arrow, or whoever
speaks DLPack (PyTorch, JAX), has it next. All of them are views: they end before the buffer is returned.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mempool import Buffers, Pool


class Loudness(NamedTuple):
    """Of one block: the largest sample of each channel, and the energy of both."""

    peaks: tuple[int, int]
    energy: float


def measure(buffer: object, length: int) -> Loudness:
    """Look at a block as an array of frames; the array is gone when this returns."""
    frames = buffer.array("<i2", (length // 4, 2))
    frames //= 2  # half as loud, in place: what is written below is this
    left, right = np.abs(frames.astype("i4")).max(axis=0, initial=0)
    return Loudness((int(left), int(right)), float(np.square(frames, dtype="f8").sum()))


def export(buffer: object, length: int) -> bytes:
    """The same memory as an Arrow buffer, which a record batch or a file of Arrow would take as it is."""
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        shared = np.from_dlpack(buffer)[:length]  # torch.from_dlpack(buffer) is the same
        return shared.tobytes()
    return pa.py_buffer(buffer[:]).slice(0, length).to_pybytes()


def halve(source: Path, target: Path, pool: Pool) -> Iterator[Loudness]:
    """Write `source` to `target`, half as loud, block by block."""
    with source.open("rb", buffering=0) as file, target.open("wb") as into:
        while True:
            with pool.lease() as buffer:
                length = file.readinto(buffer[:]) // 4 * 4  # whole frames; what remains of one is no sound
                if not length:
                    return
                yield measure(buffer, length)
                into.write(export(buffer, length))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python arrays.py FILE")
    with Pool(Buffers("64 KiB", align=64), reserve=2, limit=4, name="samples") as samples:
        for block in halve(Path(sys.argv[1]), Path(sys.argv[1] + ".half"), samples):
            print(*block.peaks, f"{block.energy:.3g}")
