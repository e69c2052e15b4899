"""The first cluster: an aiohttp app on every core.

python examples/hello.py            # or: aiocluster run examples.hello:make_app
curl http://127.0.0.1:8000/
"""

import os

from aiohttp import web

import aiocluster


async def hello(request: web.Request) -> web.Response:
    worker = aiocluster.current_worker()
    return web.Response(
        text=f"hello from worker {worker.id if worker else 0} (pid {os.getpid()})\n"
    )


async def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", hello)
    return app


if __name__ == "__main__":
    aiocluster.run(make_app, workers="auto", bind="127.0.0.1:8000")
