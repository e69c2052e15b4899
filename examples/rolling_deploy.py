"""A deploy that loses nothing: change VERSION below, then `kill -HUP` the primary's pid.

Every worker is replaced by one that runs the file as it is then, the new one first; clients
keep their connections. Break the file instead, and nothing changes but a line in the log.

    while curl -s http://127.0.0.1:8000/; do sleep 0.1; done
"""

from aiohttp import web

import aiocluster

VERSION = 1


async def version(request: web.Request) -> web.Response:
    worker = aiocluster.current_worker()
    assert worker is not None
    return web.Response(text=f"version {VERSION}, generation {worker.generation}\n")


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", version)
    return app


async def tell(cluster: aiocluster.Cluster) -> None:
    """What a chat channel would want to hear of a deploy."""
    async for event in cluster.events():
        match event:
            case aiocluster.Reloaded(generation=generation):
                print(f"generation {generation} serves", flush=True)
            case aiocluster.ReloadFailed(cause=cause):
                print(f"the deploy failed, the old version serves on: {cause}", flush=True)


if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:8000", on_start=tell)
