"""As many workers as the load needs: more when requests pile up, fewer when they are gone.

python examples/autoscaling.py
for i in $(seq 40); do curl -s http://127.0.0.1:8000/ & done    # and look at the terminal
"""

import asyncio

from aiohttp import web

import aiocluster


async def work(request: web.Request) -> web.Response:
    await asyncio.sleep(6.0)  # longer than it takes to decide
    return web.Response(text="done\n")


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", work)
    return app


async def tell(cluster: aiocluster.Cluster) -> None:
    def say(event: aiocluster.Scaled) -> None:
        print(f"from {event.before} to {event.workers} workers: {event.reason}", flush=True)

    cluster.on(aiocluster.Scaled, say)


if __name__ == "__main__":
    # One worker for every 5 requests in flight; quick to grow, and here also quick to shrink.
    scaling = aiocluster.Autoscale(
        1, 4, metric="in_flight", target=5, up_after=1.0, down_after=3.0, cooldown=1.0
    )
    aiocluster.run(make_app, workers=1, bind="127.0.0.1:8000", autoscale=scaling, on_start=tell)
