"""At a drain each WebSocket gets a close code: come back (1012), or this was all (1001)."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.program import PATIENCE, Program
from tests.support.wire import Wire

SOURCE = """
import asyncio, os, weakref
from aiohttp import web
import aiocluster

async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    request.app[sockets].add(socket)
    await socket.send_str(str(aiocluster.current_worker().id))
    async for message in socket:
        await socket.send_str(message.data)
    return socket

async def deaf(request):
    socket = web.WebSocketResponse(timeout=1000)
    await socket.prepare(request)
    await socket.send_str("deaf")
    await asyncio.Event().wait()

sockets = web.AppKey("sockets", weakref.WeakSet)

def make_app():
    app = web.Application()
    app[sockets] = weakref.WeakSet()
    app.add_routes([web.get("/", echo), web.get("/deaf", deaf)])

    async def say_goodbye():
        await asyncio.gather(*(socket.send_str("goodbye") for socket in app[sockets]))

    worker = aiocluster.current_worker()
    worker.on_drain(lambda: os.write(1, f"worker {{worker.id}} drains\\n".encode()))
    worker.on_drain(say_goodbye)
    return app

async def drain_when_told(cluster):
    while not os.path.exists("drain"):
        await asyncio.sleep(0.01)
    await cluster.workers[1].drain()

if __name__ == "__main__":
    aiocluster.run(make_app, bind="127.0.0.1:0", on_start=drain_when_told, **{settings!r})
"""

UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def program_of(folder: Path, **settings: Any) -> Program:
    return Program(folder, SOURCE.format(settings={"workers": 2, **settings}))


Sockets = list[tuple[aiohttp.ClientWebSocketResponse, str]]


async def connect(session: aiohttp.ClientSession, url: str, count: int) -> Sockets:
    """Return so many sockets, each with the id of the worker it is served by."""
    sockets = [await session.ws_connect(url) for _ in range(count)]
    return [(socket, await socket.receive_str(timeout=PATIENCE)) for socket in sockets]


async def goodbye(socket: aiohttp.ClientWebSocketResponse) -> tuple[Any, Any]:
    """Expect the app's goodbye, then the close; return its code and its words."""
    assert await socket.receive_str(timeout=PATIENCE) == "goodbye"
    message = await socket.receive(timeout=PATIENCE)
    assert message.type is aiohttp.WSMsgType.CLOSE
    assert socket.close_code == message.data  # 1006 if its own close frame could not be sent
    return message.data, message.extra


async def test_a_stop_says_that_this_was_all(tmp_path: Path) -> None:
    """After the app's goodbye all get 1001; nothing is cut, and on_drain ran once a worker."""
    async with program_of(tmp_path) as program, aiohttp.ClientSession() as session:
        sockets = await connect(session, await program.url(), 6)
        program.send_signal(signal.SIGTERM)

        for socket, _ in sockets:
            assert await goodbye(socket) == (1001, "the service stops")

        assert await program.exit_code() == 0
        output = await program.all_output()
    assert [output.count(f"worker {number} drains") for number in (1, 2)] == [1, 1]
    assert "Traceback" not in output


async def test_a_worker_that_is_replaced_says_come_back(tmp_path: Path) -> None:
    """Its WebSockets get 1012 and find its successor; those of the other go on."""
    program = program_of(tmp_path, max_requests=3)
    async with program, aiohttp.ClientSession() as session:
        url = await program.url()
        # The third request of the first worker is one too many; the second has one less.
        sockets = await connect(session, url, 5)

        for socket, worker in sockets:
            if worker == sockets[0][1]:
                assert await goodbye(socket) == (1012, "this worker is being replaced")
            else:
                await socket.send_str("still here")
                assert await socket.receive_str(timeout=PATIENCE) == "still here"

        assert await program.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_drain_of_one_worker_says_come_back(tmp_path: Path, workers: int) -> None:
    """The others go on, or a successor will, so there is somebody to come back to."""
    program = program_of(tmp_path, workers=workers)
    async with program, aiohttp.ClientSession() as session:
        sockets = await connect(session, await program.url(), 4)
        program.write("drain")
        for socket, worker in sockets:
            if worker == "1":
                assert await goodbye(socket) == (1012, "this worker is being replaced")
        assert await program.stop() == 0


async def test_a_worker_that_gets_term_says_come_back(tmp_path: Path) -> None:
    """From a shell, and though it is the only one: another will take its place."""
    program = program_of(tmp_path, workers=1)
    async with program, aiohttp.ClientSession() as session:
        ((socket, _),) = await connect(session, await program.url(), 1)
        (worker,) = program.workers()
        worker.terminate()

        assert await goodbye(socket) == (1012, "this worker is being replaced")
        await program.line("worker 2 .* is ready")
        assert await program.stop() == 0


async def test_they_are_told_one_after_the_other_until_hurried(tmp_path: Path) -> None:
    """A hundred are told over ten seconds; QUIT tells the rest at once, and cuts none."""
    async with (
        program_of(tmp_path, workers=1, graceful_timeout=1000) as program,
        aiohttp.ClientSession() as session,
    ):
        sockets = await connect(session, await program.url(), 100)
        told = [asyncio.create_task(goodbye(socket)) for socket, _ in sockets]
        program.send_signal(signal.SIGTERM)
        await asyncio.wait(told, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        assert not all(task.done() for task in told)

        program.send_signal(signal.SIGQUIT)

        assert {await task for task in told} == {(1001, "the service stops")}
        await asyncio.gather(*(socket.close() for socket, _ in sockets))
        assert await program.exit_code() == 0


async def test_a_client_that_never_answers_is_cut_and_named(tmp_path: Path) -> None:
    """It is told, with those beside it, and holds the stop up to the deadline, no longer."""
    async with (
        program_of(tmp_path, workers=1, graceful_timeout=2) as program,
        aiohttp.ClientSession() as session,
    ):
        url = await program.url()
        async with Wire(url) as wire:
            await wire.send(UPGRADE.format(path="/deaf").encode())
            await wire.until(b"\x81\x04deaf")
            sockets = await connect(session, url, 3)

            program.send_signal(signal.SIGTERM)

            for socket, _ in sockets:
                assert await goodbye(socket) == (1001, "the service stops")
            words = b"\x03\xe9the service stops"
            await wire.until(b"\x88" + bytes([len(words)]) + words)
            assert await program.exit_code() == 1
        output = await program.all_output()

    (line,) = [line for line in output.splitlines() if "cut: " in line]
    assert line.endswith("cut: GET /deaf from 127.0.0.1")
