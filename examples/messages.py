"""Messages both ways: a worker asks the primary, which knows what all workers share.

python examples/messages.py
curl http://127.0.0.1:8000/            # a number that no other worker ever gives
"""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

import aiocluster


class Tickets:
    """In a worker: asks the primary for numbers, one answer a question."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[int]] = []

    async def next(self) -> int:
        worker = aiocluster.current_worker()
        assert worker is not None
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        await worker.send({"want": "ticket"})
        return await answer

    async def read_answers(self, app: web.Application) -> AsyncIterator[None]:
        async def read() -> None:
            worker = aiocluster.current_worker()
            assert worker is not None
            async for message in worker.messages():
                self._waiting.pop(0).set_result(message["ticket"])

        task = asyncio.create_task(read())
        yield
        task.cancel()


def make_app() -> web.Application:
    tickets = Tickets()

    async def ticket(request: web.Request) -> web.Response:
        return web.Response(text=f"{await tickets.next()}\n")

    app = web.Application()
    app.cleanup_ctx.append(tickets.read_answers)
    app.router.add_get("/", ticket)
    return app


async def hand_out_tickets(cluster: aiocluster.Cluster) -> None:
    issued = 0

    async def answer(event: aiocluster.WorkerMessage) -> None:
        nonlocal issued
        issued += 1
        await event.worker.send({"ticket": issued})

    cluster.on(aiocluster.WorkerMessage, answer)


if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:8000", on_start=hand_out_tickets)
