"""Kept-alive connections that are used until the server ends each of them: what was lost?

python -m benchmarks.stop_load --port N --connections 16 --pause 0.1

Prints "warm" once every connection has had an answer, and in the end one line of JSON. A request is
lost when it was sent and not answered whole. Each client does what a careful one does: it sends
nothing on a connection that it knows to be closed, or that a response has said to be the last of.
"""

import argparse
import asyncio
import json
from collections import Counter

HOST = "127.0.0.1"
REQUEST = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
# How long an answer may take, seconds: no server here works on one for 1 ms.
PATIENCE = 20.0


async def use(port: int, pause: float, first: asyncio.Semaphore) -> Counter[str]:
    """Ask on one connection, `pause` seconds after each answer, until it ends; count."""
    reader, writer = await asyncio.open_connection(HOST, port)
    seen: Counter[str] = Counter()
    try:
        while True:
            if reader.at_eof() or writer.is_closing():
                seen["closed"] += 1
                return seen
            try:
                writer.write(REQUEST)
                is_last = await asyncio.wait_for(_is_last(reader), PATIENCE)
            except (OSError, EOFError, TimeoutError):
                seen["lost"] += 1
                return seen
            seen["answered"] += 1
            if seen["answered"] == 1:
                first.release()
            if is_last:
                seen["told"] += 1
                return seen
            await asyncio.sleep(pause)
    finally:
        writer.close()


async def _is_last(reader: asyncio.StreamReader) -> bool:
    """Read an answer to its end; say whether the server closes the connection after it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, _, length = head.partition(b"\r\ncontent-length:")
    await reader.readexactly(int(length.split(b"\r\n", 1)[0]))
    return b"\r\nconnection: close\r\n" in head


async def load(port: int, connections: int, pause: float) -> Counter[str]:
    first = asyncio.Semaphore(0)
    clients = []
    for _ in range(connections):
        clients.append(asyncio.create_task(use(port, pause, first)))
        # Spread over the pause, as clients that know nothing of each other are.
        await asyncio.sleep(pause / connections)
    for _ in clients:
        await first.acquire()
    print("warm", flush=True)
    return sum(await asyncio.gather(*clients), Counter[str]())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--pause", type=float, required=True, help="seconds")
    options = parser.parse_args()
    seen = asyncio.run(load(options.port, options.connections, options.pause))
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
