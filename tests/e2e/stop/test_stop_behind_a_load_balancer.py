"""A stop begins with telling, and ends without a reset for who was just connecting."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.support.program import PATIENCE, Program, until
from tests.support.wire import Wire

SOURCE = """
import asyncio, os
from aiohttp import web
import aiocluster

async def health(request):
    worker = aiocluster.current_worker()
    return web.Response(text=f"{{worker.is_ready}} {{os.getpid()}}")

async def quick(request):
    return web.Response(text="quick")

def make_app():
    app = web.Application()
    app.add_routes([web.get("/health", health), web.get("/", quick)])
    return app

def tell(event):
    os.write(1, f"told of {{type(event).__name__}}\\n".encode())

async def on_start(cluster):
    cluster.on(aiocluster.StopBegan, tell)

if __name__ == "__main__":
    aiocluster.run(
        make_app, workers=2, bind="127.0.0.1:0", on_start=on_start, pre_drain_wait={wait}
    )
"""

# Nobody waits for the end of this one: who waits for it fails by the test's own patience.
LONG = 1000


async def health(url: str) -> tuple[str, int]:
    """Return what a new connection hears, and from which process."""
    async with Wire(url) as wire:
        ready, pid = (await wire.get("/health")).body.decode().split()
    return ready, int(pid)


async def not_ready(url: str) -> int:
    """Ask until a worker says that it is not ready; return its process id."""
    async with asyncio.timeout(PATIENCE):
        while (answer := await health(url))[0] != "False":
            continue
    return answer[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
async def test_readiness_goes_first_and_it_serves_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    """On connections old and new, in workers old and new; a second signal ends the wait."""
    async with Program(tmp_path, SOURCE.format(wait=LONG)) as program:
        url = await program.url()
        assert {(await health(url))[0] for _ in range(4)} == {"True"}
        async with Wire(url) as old:
            await old.get()
            program.send_signal(signal.SIGTERM)
            await program.line("told of StopBegan")
            await program.line("serving on for 1000 s")
            pids = {pid for _ in range(4) for pid in [await not_ready(url)]}
            assert (await old.get()).body == b"quick"

            # A worker that dies meanwhile is replaced, and is not ready either.
            os.kill(min(pids), signal.SIGKILL)
            await program.line(r"worker 3 \(pid \d+\) is ready")
            assert {(await health(url))[0] for _ in range(4)} == {"False"}
            program.send_signal(number)
            assert await old.rest() == b""
        assert await program.exit_code() == 0
        output = await program.all_output()
    assert output.count("told of StopBegan") == 1
    assert "second INT" not in output


async def test_the_second_int_ends_the_wait_and_the_third_kills(tmp_path: Path) -> None:
    """Each says a little more clearly that somebody is in a hurry."""
    async with Program(tmp_path, SOURCE.format(wait=LONG)) as program:
        await program.url()
        program.send_signal(signal.SIGINT)
        await program.line("serving on for 1000 s")
        # Within 0.1 s it would count as the same key press; no event tells that they are over.
        await asyncio.sleep(0.2)
        assert await program.stop(signal.SIGINT) == 0
        assert "second INT" not in await program.all_output()


class Clients:
    """Connect, ask and read, one connection a request, until refused."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._place = host, int(port)
        self.answered = 0
        self.lost: list[str] = []

    async def run(self) -> None:
        while await self._ask():
            self.answered += 1

    async def _ask(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(*self._place)
        except ConnectionRefusedError:
            return False
        except OSError as error:
            self.lost.append(f"while it connected: {error!r}")
            return False
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
        except OSError as error:
            answer = repr(error).encode()
        finally:
            writer.close()
        if not answer.endswith(b"quick"):
            self.lost.append(f"after it connected: {answer!r}")
        return answer.endswith(b"quick")


@pytest.mark.parametrize("attempt", range(5))
async def test_who_connects_during_the_stop_is_answered_or_refused(
    tmp_path: Path, attempt: int
) -> None:
    """Nobody who was let in is reset, at whatever moment the stop comes."""
    async with Program(tmp_path, SOURCE.format(wait=0)) as program:
        clients = Clients(await program.url())
        running = [asyncio.create_task(clients.run()) for _ in range(16)]
        await until(lambda: clients.answered > 50 + 20 * attempt, "nobody is served")
        program.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*running)
        assert await program.exit_code() == 0
    assert clients.lost == []
