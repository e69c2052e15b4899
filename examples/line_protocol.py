"""A line protocol of one's own, served by two workers on one port.

python examples/line_protocol.py
echo hello | nc 127.0.0.1 8000         # worker 1 says: HELLO
"""

import asyncio

import aiocluster


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each line, as a callback of asyncio.start_server would."""
    worker = aiocluster.current_worker()
    assert worker is not None
    while line := await reader.readline():
        writer.write(f"worker {worker.id} says: {line.decode().upper()}".encode())
        await writer.drain()
    writer.close()


async def serve(worker: aiocluster.WorkerContext) -> None:
    """A job: it has no app, but a server, which ends when the worker drains."""
    await worker.start_server(shout, "127.0.0.1", 8000)
    await worker.stopping()


if __name__ == "__main__":
    aiocluster.run(serve, workers=2)
