"""Numbers as they happen: `on_start` runs beside the cluster, in the primary.

python examples/live_metrics.py
curl http://127.0.0.1:8000/            # and look at the terminal
"""

import asyncio
import random

from aiohttp import web

import aiocluster


async def work(request: web.Request) -> web.Response:
    await asyncio.sleep(random.uniform(0.001, 0.02))
    return web.Response(text="done\n")


async def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", work)
    return app


async def print_metrics(cluster: aiocluster.Cluster) -> None:
    async for snapshot in cluster.subscribe(interval=1.0):
        total = snapshot.total
        print(
            f"{total.requests_total} requests, {total.requests_per_second:.0f}/s, "
            f"p99 {total.latency.p99 * 1000:.1f} ms, {total.connections_open} connections, "
            f"lag {total.loop_lag_max * 1000:.1f} ms, {total.pss_bytes / 2**20:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    aiocluster.run(make_app, workers="auto", bind="127.0.0.1:8000", on_start=print_metrics)
