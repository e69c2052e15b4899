"""Waiting in tests: for an event, and never for ever."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.support.program import PATIENCE

T = TypeVar("T")


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait for what should happen at once; fail when it does not happen at all."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def turns(count: int = 5) -> None:
    """Let the loop run what it has ready."""
    for _ in range(count):
        await asyncio.sleep(0)


async def turns_until(condition: Callable[[], bool]) -> None:
    """Turn the loop until `condition()`, for a fact that nothing tells."""
    async with asyncio.timeout(PATIENCE):
        turned = 0
        while not condition():
            # What takes longer than that waits for something outside: leave it the CPU.
            await asyncio.sleep(0 if turned < 100 else 0.001)
            turned += 1


async def readable(sock: socket.socket) -> None:
    """Wait until `sock` has something to read."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock.fileno(), arrived.set)
    try:
        await soon(arrived.wait())
    finally:
        loop.remove_reader(sock.fileno())
