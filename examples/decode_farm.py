"""A farm that decodes clips into staging buffers: `python decode_farm.py FOLDER [tcp://SCHEDULER:8786]`.

Each clip is a moving picture that Pillow can read: GIF, PNG or WebP. A task takes a buffer of its worker's pool for each
frame and waits for one if need be, so a worker never holds more frames than the pool's limit. In the midst the pools are
made larger, while tasks run. Without the address of a scheduler, two workers are started on this machine.
"""

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mempool

try:
    from distributed import Client, LocalCluster, as_completed
    from PIL import Image, ImageSequence

    from mempool.fleet.dask import Fleet
except ModuleNotFoundError as missing:
    sys.exit(f"decode_farm.py needs {missing.name}: pip install distributed pillow")

FRAME = 1280 * 720  # bytes: a grey picture of this size, or any smaller one


def decode(path: str) -> tuple[str, int, float]:
    """The clip's frames and their mean brightness. Figures leave the task; an element of the pool never does."""
    staging = mempool.get("staging")
    frames, total = 0, 0.0
    with Image.open(path) as clip:
        for picture in ImageSequence.Iterator(clip):
            grey = picture.convert("L")
            with staging.lease(timeout=30) as frame, frame[: grey.width * grey.height] as view:
                view[:] = grey.tobytes()
                total += brightness(view)
            frames += 1
    return path, frames, total / frames


def brightness(view: memoryview) -> float:
    """What stands here for a model that looks at the frame."""
    sample = view[:: max(1, len(view) // 997)]
    return sum(sample) / len(sample)


def run(client: Client, clips: list[str]) -> Iterator[tuple[str, int, float]]:
    """Each clip's figures as they come; the pools are resized after the first half."""
    pool = Fleet(client).create("staging", partial(mempool.Buffers, FRAME), reserve=1, limit=2)
    done = as_completed(client.map(decode, clips, pure=False), with_results=True)
    for number, (_, figures) in enumerate(done, 1):
        yield figures
        if number == max(1, len(clips) // 2):
            print(pool.resize(reserve=4, limit=8), file=sys.stderr)


def main(folder: Path, address: str | None) -> None:
    """Decode all clips below the folder and print a line for each."""
    clips = [str(path) for path in sorted(folder.rglob("*")) if path.suffix in {".gif", ".png", ".webp"}]
    with contextlib.ExitStack() as stack:
        farm = address
        if farm is None:
            local = LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0", host="127.0.0.1")
            farm = stack.enter_context(local)
        client = stack.enter_context(Client(farm))
        for path, frames, level in run(client, clips):
            print(f"{frames:5} frames  {level:6.2f}  {path}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python decode_farm.py FOLDER [tcp://SCHEDULER:8786]")
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
