"""The first script of every Node cluster tutorial: fork a worker for each CPU.

In Node: `for (let i = 0; i < os.cpus().length; i++) cluster.fork()`, and an `if
(cluster.isPrimary)` around it. Here the count is a setting, and events tell the rest.
"""

import os

from aiohttp import web

import aiocluster


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello from pid {os.getpid()}\n")


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", hello)
    return app


async def announce(cluster: aiocluster.Cluster) -> None:
    print(f"primary {os.getpid()} is running", flush=True)
    for worker in cluster.workers.values():
        print(f"worker {worker.id} runs as {worker.pid}", flush=True)


if __name__ == "__main__":
    aiocluster.run(make_app, workers="auto", bind="127.0.0.1:8000", on_start=announce)
