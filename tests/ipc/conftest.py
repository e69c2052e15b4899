import asyncio
import gc
import os
from collections.abc import Callable, Iterator

import pytest
import uvloop

LoopFactories = dict[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories() -> LoopFactories:
    """Run every asynchronous test here in both loops: a cluster uses uvloop, a test may not."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def no_descriptor_is_left() -> Iterator[None]:
    """Fail a test that leaves a descriptor open, or closes one that is not its own."""
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before
