"""A policy of one's own: clients that pay have half of the workers for themselves.

python examples/own_policy.py
curl http://127.0.0.1:8000/                        # answered from an odd slot
curl -H 'X-Plan: paid' http://127.0.0.1:8000/      # answered from an even one
"""

from collections.abc import Sequence

from aiohttp import web

import aiocluster
from aiocluster import Candidate


class HalfForPaid:
    """Runs in the primary, for each new connection: so it answers at once."""

    affinity_by = "header:x-plan"  # what `affinity` is to be

    def choose(self, candidates: Sequence[Candidate], affinity: bytes) -> Candidate:
        parity = 0 if affinity == b"paid" else 1
        half = [worker for worker in candidates if worker.slot % 2 == parity]
        return min(half or candidates, key=lambda worker: worker.open_connections)


async def hello(request: web.Request) -> web.Response:
    worker = aiocluster.current_worker()
    assert worker is not None
    return web.Response(text=f"hello from slot {worker.slot}\n")


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", hello)
    return app


if __name__ == "__main__":
    aiocluster.run(make_app, workers=4, bind="127.0.0.1:8000", policy=HalfForPaid())
