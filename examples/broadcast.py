"""One tells all: what one worker learns, the primary broadcasts to every worker.

curl -X PUT http://127.0.0.1:8000/motd -d 'back at five'
curl http://127.0.0.1:8000/motd        # whichever worker answers
"""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

import aiocluster

motd = web.AppKey("motd", dict[str, str])


async def read(request: web.Request) -> web.Response:
    return web.Response(text=request.app[motd].get("text", "") + "\n")


async def write(request: web.Request) -> web.Response:
    worker = aiocluster.current_worker()
    assert worker is not None
    await worker.send({"motd": await request.text()})
    return web.Response(status=202)


async def listen(app: web.Application) -> AsyncIterator[None]:
    async def follow() -> None:
        worker = aiocluster.current_worker()
        assert worker is not None
        async for message in worker.messages():
            app[motd]["text"] = message["motd"]

    task = asyncio.create_task(follow())
    yield
    task.cancel()


def make_app() -> web.Application:
    app = web.Application()
    app[motd] = {}
    app.cleanup_ctx.append(listen)
    app.router.add_get("/motd", read)
    app.router.add_put("/motd", write)
    return app


async def pass_on(cluster: aiocluster.Cluster) -> None:
    async def broadcast(event: aiocluster.WorkerMessage) -> None:
        reached = await cluster.broadcast(event.message)
        print(f"told {reached} workers", flush=True)

    cluster.on(aiocluster.WorkerMessage, broadcast)


if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:8000", on_start=pass_on)
