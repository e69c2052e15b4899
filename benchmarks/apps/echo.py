"""An app whose worker sends every message of the primary straight back."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

import aiocluster
from benchmarks.apps import hello


async def _echo() -> None:
    worker = aiocluster.current_worker()
    async for message in worker.messages():
        await worker.send(message)


async def _run_echo(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(_echo())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def make_app() -> web.Application:
    app = await hello.make_app()
    app.cleanup_ctx.append(_run_echo)
    return app
