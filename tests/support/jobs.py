"""The jobs that these tests run: each is told by its environment, or by messages, what to do."""

import asyncio
import contextlib
import os
import struct
import sys
import time

from aiohttp import web

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


async def hasty_job(worker: aiocluster.WorkerContext) -> None:
    """Returns after its first wait."""
    await asyncio.sleep(0.01)


async def init(loop: object) -> object:
    """A factory that needs an argument: as a role it is taken for a job."""
    return web.Application()


async def failing_job(worker: aiocluster.WorkerContext) -> None:
    """Raises at once."""
    raise LookupError("no such queue")


# A time in which a worker saw that it led: its begin and end on the system's monotonic clock, in
# nanoseconds, and the worker's id.
REIGN = struct.Struct("qqq")

# Looks at whether it leads are so close together that nobody can have led in between; for so
# long at a time; and so many seconds are between two times. The first two in nanoseconds.
_CLOSE = 200_000
_WATCH = 300_000
_REST = 0.001


async def watchful_job(worker: aiocluster.WorkerContext) -> None:
    """Looks again and again whether it leads, and writes down when it did."""
    file = os.open(os.environ["REIGNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    while not worker.is_stopping:
        if (reign := _reign(worker)) is not None:
            # One write each: appends of several processes do not mix.
            os.write(file, REIGN.pack(*reign, worker.id))
        await asyncio.sleep(_REST)
    os.close(file)


def _reign(worker: aiocluster.WorkerContext) -> tuple[int, int] | None:
    """Look for a while; return from when to when it surely led without a break."""
    if not worker.is_leader:
        return None
    begun = ended = time.monotonic_ns()
    while ended - begun < _WATCH:
        looked = time.monotonic_ns()
        if not worker.is_leader or time.monotonic_ns() - ended > _CLOSE:
            break  # not any more; or this process did not run meanwhile
        ended = looked
    return begun, ended
