"""A TCP relay of bounded memory: `python tcp_relay.py 8000 example.org 80`.

A connection leases one buffer for each direction as long as it lasts: the limit says how many are relayed at once. More
connections stand in the pool's line, unread, so that their senders slow down; when the line is full, they are refused.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable

from mempool import Buffers, LineFull, Pool


async def pump(source: socket.socket, target: socket.socket, buffer: object) -> None:
    """Move one direction to its end."""
    loop = asyncio.get_running_loop()
    with buffer[:] as view:
        while length := await loop.sock_recv_into(source, view):
            await loop.sock_sendall(target, view[:length])
    target.shutdown(socket.SHUT_WR)


async def relay(client: socket.socket, target: tuple[str, int], there: Pool, back: Pool) -> None:
    """Relay one connection. Two pools, always in this order: with one, two connections could each hold half of a pair."""
    with client, contextlib.suppress(LineFull):
        async with there.lease() as up, back.lease() as down:
            with socket.socket() as server:
                server.setblocking(False)
                try:
                    await asyncio.get_running_loop().sock_connect(server, target)
                    async with asyncio.TaskGroup() as directions:
                        directions.create_task(pump(client, server, up))
                        directions.create_task(pump(server, client, down))
                except* OSError:
                    pass  # one end has gone, and with it the connection


async def main(
    listen: int, target: tuple[str, int], there: Pool, back: Pool, ready: Callable[[int], object] = print
) -> None:
    """Relay every connection to the port `listen` to `target`, until cancelled. ready: is told the port."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", listen)) as door:
        door.setblocking(False)
        ready(door.getsockname()[1])
        async with asyncio.TaskGroup() as connections:
            while True:
                client, _ = await loop.sock_accept(door)
                client.setblocking(False)
                connections.create_task(relay(client, target, there, back))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: python tcp_relay.py PORT HOST PORT, such as 8000 example.org 80")
    pools = [Pool(Buffers("64 KiB"), reserve=4, limit=64, max_waiting=1000, name=name) for name in ("there", "back")]
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), (sys.argv[2], int(sys.argv[3])), *pools))
