from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.support.stage import MakeStage, Stage
from tests.support.waiting import turns


@pytest.fixture
async def make_stage() -> AsyncIterator[MakeStage]:
    stages: list[Stage] = []

    async def make(app: web.Application, **settings: Any) -> Stage:
        stage = Stage(app, **settings)
        await stage.service.start()
        stages.append(stage)
        return stage

    yield make
    for stage in stages:
        stage.close()
    await turns()
