"""The jobs that these tests run: each is told by its environment, or by messages, what to do."""

import asyncio
import contextlib
import os
import sys

import aiocluster


async def obedient_job(worker: aiocluster.WorkerContext) -> None:
    """Does what a message says, until it is told to stop."""
    obeying = asyncio.create_task(_obey(worker))
    stopping = asyncio.create_task(worker.stopping())
    await asyncio.wait({obeying, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if obeying.done():
        stopping.cancel()
        await obeying
        return
    obeying.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await obeying
    await worker.send("stopped in its own time")


async def _obey(worker: aiocluster.WorkerContext) -> None:
    async for command in worker.messages():
        match command:
            case "return":
                return
            case "raise":
                raise LookupError("told to raise")
            case "exit":
                sys.exit(7)
            case "tell":
                await worker.send([worker.id, worker.slot, os.getpid()])
            case _:
                raise AssertionError(command)


async def deaf_job(worker: aiocluster.WorkerContext) -> None:
    """Never asks whether it is to stop, and cleans up when it is cancelled."""
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        os.write(1, b"cleaned up\n")


async def short_job(worker: aiocluster.WorkerContext) -> None:
    """Returns at once."""


async def failing_job(worker: aiocluster.WorkerContext) -> None:
    """Raises at once."""
    raise LookupError("no such queue")
