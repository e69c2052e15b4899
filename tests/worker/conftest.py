import asyncio
from collections.abc import Callable

import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A worker always runs on uvloop, and adopts connections by its ways."""
    return {"uvloop": uvloop.new_event_loop}
