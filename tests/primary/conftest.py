import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from tests.support.supervision import MakeStage, Stage


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """`run` uses uvloop; a Cluster lives in whatever loop its program has."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def make_stage() -> AsyncIterator[MakeStage]:
    """Return what makes a supervisor with its first generation, and ends all of it."""
    stages: list[Stage] = []

    async def make(**settings: object) -> Stage:
        stages.append(Stage(**settings))
        await stages[-1].generations.begin()
        return stages[-1]

    yield make
    for stage in stages:
        await stage.close()


@pytest.fixture
async def stage(make_stage: MakeStage) -> Stage:
    """Return a supervisor with its first generation."""
    return await make_stage()
