"""The second script of every Node cluster tutorial: fork again when a worker exits.

In Node: `cluster.on('exit', () => cluster.fork())`. Here a dead worker is replaced anyway,
with a back-off when it keeps dying; `restart="never"` switches that off, to show how one
would do it by hand.

    curl http://127.0.0.1:8000/crash
"""

import os

from aiohttp import web

import aiocluster


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello from pid {os.getpid()}\n")


async def crash(request: web.Request) -> web.Response:
    os._exit(42)


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/crash", crash)
    return app


async def fork_again(cluster: aiocluster.Cluster) -> None:
    async for event in cluster.events():
        if isinstance(event, aiocluster.WorkerExited) and not event.voluntary:
            print(f"worker {event.worker.id} died with code {event.code}", flush=True)
            worker = await cluster.fork()
            print(f"worker {worker.id} takes its place", flush=True)


if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:8000", restart="never", on_start=fork_again)
