"""A TCP relay on loopback that delays and counts: a far server on one machine.

    proxy.py PORT ROUND_TRIP_MS COUNTS

Relays connections to 127.0.0.1:PORT and prints the port it listens on. Half of the round trip
passes in each direction, and a whole one before the first byte, as a TCP handshake would cost.
It limits no rate. The bytes of each direction, up and down, are kept in the file COUNTS, as two
little-endian 64-bit numbers.
"""

import asyncio
import mmap
import socket
import struct
import sys
import time

READ_BYTES = 1 << 18
AHEAD_BYTES = 1 << 26


async def main(port, round_trip, counts):
    with open(counts, "w+b") as file:
        file.write(bytes(16))
        file.flush()
        shared = mmap.mmap(file.fileno(), 16)
    totals = [0, 0]

    def counted(way, size):
        totals[way] += size
        struct.pack_into("<QQ", shared, 0, *totals)

    async def connected(near):
        loop = asyncio.get_running_loop()
        far = socket.socket()
        try:
            for side in (near, far):
                side.setblocking(False)
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(far, ("127.0.0.1", port))
            opened = time.monotonic() + round_trip
            await asyncio.gather(
                relay(near, far, round_trip / 2, opened, lambda n: counted(0, n)),
                relay(far, near, round_trip / 2, opened, lambda n: counted(1, n)),
            )
        except OSError:
            pass
        finally:
            near.close()
            far.close()

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    running = set()
    while True:
        near, _ = await asyncio.get_running_loop().sock_accept(listener)
        task = asyncio.create_task(connected(near))
        running.add(task)
        task.add_done_callback(running.discard)


async def relay(source, target, delay, opened, counted):
    """Moves bytes one way until the source ends; each waits for its time, none for another."""
    loop = asyncio.get_running_loop()
    if delay == 0:
        while data := await loop.sock_recv(source, READ_BYTES):
            counted(len(data))
            await loop.sock_sendall(target, data)
        target.shutdown(socket.SHUT_WR)
        return
    queue = asyncio.Queue()
    room = asyncio.Semaphore(AHEAD_BYTES // READ_BYTES)

    async def sent():
        while True:
            due, data = await queue.get()
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if not data:
                target.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(target, data)
            room.release()

    sender = asyncio.create_task(sent())
    try:
        while True:
            await room.acquire()
            data = await loop.sock_recv(source, READ_BYTES)
            counted(len(data))
            queue.put_nowait((max(time.monotonic(), opened) + delay, data))
            if not data:
                break
        await sender
    finally:
        sender.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]) / 1000, sys.argv[3]))
    except KeyboardInterrupt:
        pass
