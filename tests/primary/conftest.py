import asyncio
from collections.abc import Callable

import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """`run` uses uvloop; a Cluster lives in whatever loop its program has."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
