"""Two roles under one primary: workers that serve, and jobs, one of which runs the cron.

python examples/web_and_jobs.py       # and kill the process that cleans up: the other goes on

A job takes no connections. At every moment one worker of a role, at most, is its leader.
"""

import asyncio
import os
from contextlib import suppress

from aiohttp import web

import aiocluster


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello\n")


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", hello)
    return app


async def clean_up(worker: aiocluster.WorkerContext) -> None:
    """Every second, once in the whole cluster."""
    while not worker.is_stopping:
        if worker.is_leader:
            print(f"worker {worker.id} (pid {os.getpid()}) cleans up", flush=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(worker.stopping(), timeout=1.0)


if __name__ == "__main__":
    aiocluster.run(
        roles={
            "web": aiocluster.Role(make_app, workers="auto", bind="127.0.0.1:8000"),
            "jobs": aiocluster.Role(clean_up, workers=2),
        }
    )
