"""A camera and three workers, one of which is killed every second: `python camera.py SECONDS`.

Frames are not copied: a token goes through a socket. A packet is received whole or not at all, and nobody holds a lock
meanwhile, as in a multiprocessing.Queue. So a worker may be killed at any moment; what it held is returned to the pool.
"""

import contextlib
import itertools
import multiprocessing
import os
import socket
import sys
import time

import mempool

FRAME = 640 * 480  # bytes: a grey picture


def camera(name: str, frames: socket.socket, seconds: float) -> None:
    """Take pictures, as fast as there are frames to put them into."""
    pool = mempool.SharedPool.attach(name)
    end = time.monotonic() + seconds
    for number in itertools.takewhile(lambda _: time.monotonic() < end, itertools.count()):
        frame = pool.alloc()  # waits while the workers have all frames, and has those of a worker that was killed
        frame.fill(number % 251)
        frames.send(number.to_bytes(4, "big") + bytes(pool.offer(frame)))
    while pool.stats().offered and time.monotonic() < end + 2:
        time.sleep(0.01)  # what is offered is the camera's until it is adopted, so it must not end before
    for token in pool.pending():  # a worker was killed after it had received the token, and before it had adopted the frame
        pool.free(pool.recall(token))


def work(name: str, frames: socket.socket, seen: socket.socket) -> None:
    """Look at each frame."""
    pool = mempool.SharedPool.attach(name)
    while packet := frames.recv(4096):
        number, token = packet[:4], mempool.Token.from_bytes(packet[4:])
        with contextlib.suppress(mempool.StaleToken), pool.adopting(token) as frame:
            is_right = frame[0] == frame[len(frame) - 1] == int.from_bytes(number, "big") % 251
            seen.send(number + bytes([is_right]))


def main(seconds: float) -> None:
    """Start all, kill one every second, and tell what has become of the frames."""
    spawned = multiprocessing.get_context("spawn").Process
    frames, camera_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    seen, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    seen.settimeout(0.1)
    pool = mempool.SharedPool(f"camera-{os.getpid()}", size=FRAME, reserve=4, limit=8)
    source = spawned(target=camera, args=(pool.name, camera_end, seconds))
    source.start()
    workers: list[multiprocessing.process.BaseProcess] = []
    right, wrong, killed, due = 0, 0, 0, time.monotonic()
    while source.is_alive():
        if time.monotonic() > due and len(workers) == 3:
            workers[0].kill()
            workers.pop(0).join()
            killed += 1
        while len(workers) < 3:
            workers.append(spawned(target=work, args=(pool.name, frames, worker_end)))
            workers[-1].start()
            due = time.monotonic() + 1
        with contextlib.suppress(TimeoutError):
            answer = seen.recv(16)
            right, wrong = right + answer[4], wrong + 1 - answer[4]
    for worker in workers:
        worker.kill()
        worker.join()
    pool.reclaim()
    print(f"{right} frames seen, {wrong} wrong; {killed} workers killed; {pool.out} frames are still out")
    pool.close()
    pool.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python camera.py SECONDS")
    main(float(sys.argv[1]))
