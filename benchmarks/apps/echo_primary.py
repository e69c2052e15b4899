"""aiocluster's side of channel_echo: a primary that sends, and counts what comes back.

python -m benchmarks.apps.echo_primary IN_FLIGHT WARM_UP MEASURED; prints {"per_second": ...}
"""

import asyncio
import json
import sys
import time

import uvloop

import aiocluster


class Echo:
    """Keeps `in_flight` messages on their way to one worker and back."""

    def __init__(self, handle: aiocluster.WorkerHandle, in_flight: int) -> None:
        self._handle = handle
        self._in_flight = in_flight
        self._received = 0
        self._answered = asyncio.Event()

    def on_message(self, event: aiocluster.WorkerMessage) -> None:
        if event.message != {"n": self._received}:
            raise ValueError(f"expected {self._received}, got {event.message!r}")
        self._received += 1
        self._answered.set()

    async def round_trips(self, total: int) -> float:
        """Make `total` of them; the seconds it took."""
        self._received = sent = 0
        began = time.perf_counter()
        while self._received < total:
            self._answered.clear()
            for number in range(sent, min(self._received + self._in_flight, total)):
                await self._handle.send({"n": number})
                sent = number + 1
            if self._received < sent:
                await self._answered.wait()
        return time.perf_counter() - began


async def main(in_flight: int, warm_up: int, measured: int) -> None:
    app = "benchmarks.apps.echo:make_app"
    async with aiocluster.Cluster(app, workers=1, bind="127.0.0.1:0") as cluster:
        (handle,) = cluster.workers.values()
        echo = Echo(handle, in_flight)
        cluster.on(aiocluster.WorkerMessage, echo.on_message)
        await echo.round_trips(warm_up)
        seconds = await echo.round_trips(measured)
    print(json.dumps({"per_second": measured / seconds}))


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
