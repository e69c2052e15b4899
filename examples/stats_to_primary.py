"""The third script of every Node cluster tutorial: workers report each request to the primary.

In Node: `process.send({ cmd: 'notifyRequest' })`. For plain numbers there is no need, since
`cluster.subscribe()` has them (see live_metrics.py); this is for what only the app knows.
"""

from aiohttp import web

import aiocluster


async def hello(request: web.Request) -> web.Response:
    worker = aiocluster.current_worker()
    assert worker is not None
    await worker.send({"cmd": "notify_request", "path": request.path})
    return web.Response(text="hello\n")


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/{name:.*}", hello)
    return app


async def count_requests(cluster: aiocluster.Cluster) -> None:
    requests: dict[str, int] = {}

    def count(event: aiocluster.WorkerMessage) -> None:
        if event.message["cmd"] == "notify_request":
            path = event.message["path"]
            requests[path] = requests.get(path, 0) + 1
            print(f"requests: {requests}", flush=True)

    cluster.on(aiocluster.WorkerMessage, count)


if __name__ == "__main__":
    aiocluster.run(make_app, workers="auto", bind="127.0.0.1:8000", on_start=count_requests)
