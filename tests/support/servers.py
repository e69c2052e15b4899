"""The jobs and apps of these tests that start servers of their own.

Each answers `who` with its worker's id, `context` with what was set where it was started, and
anything else with an echo, line by line.
"""

import asyncio
import contextlib
import errno
from contextvars import ContextVar
from typing import Any

from aiohttp import web

import aiocluster

SAID: ContextVar[str] = ContextVar("SAID", default="nothing")


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A line protocol."""
    worker = aiocluster.current_worker()
    assert worker is not None
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            known = {b"who\n": str(worker.id), b"context\n": SAID.get()}
            writer.write(known[line].encode() + b"\n" if line in known else line)
            await writer.drain()
    writer.close()


async def line_job(worker: aiocluster.WorkerContext) -> None:
    """Serve; listen and close as messages say, and tell of each."""
    await _obey(worker, [await worker.start_server(answer, "127.0.0.1", 0)])


async def idle_job(worker: aiocluster.WorkerContext) -> None:
    """Listen only when a message says so."""
    await _obey(worker, [])


async def _obey(worker: aiocluster.WorkerContext, servers: list[Any]) -> None:
    obeying = asyncio.create_task(_obey_messages(worker, servers))
    stopping = asyncio.create_task(worker.stopping())
    await asyncio.wait({obeying, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if obeying.done():
        stopping.cancel()
        await obeying
    obeying.cancel()


async def _obey_messages(worker: aiocluster.WorkerContext, servers: list[Any]) -> None:
    async for command, *arguments in worker.messages():
        match command:
            case "listen":
                await _listen(worker, servers, *arguments)
            case "tell":
                await worker.send([worker.id, "serves", *_ports(servers[0])])
            case "close":
                servers.pop(0).close()
                await worker.send([worker.id, "closed"])
            case "listen_alone":
                await _listen_alone(worker, servers, *arguments)
            case "set":
                SAID.set(arguments[0])
            case _:
                assert command == "finish"
                for server in servers:
                    server.close()
                return


async def _listen_alone(worker: aiocluster.WorkerContext, servers: list[Any], port: int) -> None:
    """Without the primary."""
    try:
        servers.append(await asyncio.start_server(answer, "127.0.0.1", port))
    except OSError as error:
        await worker.send([worker.id, "failed", errno.errorcode.get(error.errno or 0)])
    else:
        await worker.send([worker.id, "serves", *_ports(servers[-1])])


async def _listen(
    worker: aiocluster.WorkerContext, servers: list[Any], host: str | None, port: int | None
) -> None:
    try:
        servers.append(await worker.start_server(answer, host, port))
    except OSError as error:
        await worker.send([worker.id, "failed", errno.errorcode.get(error.errno or 0)])
    else:
        await worker.send([worker.id, "serves", *_ports(servers[-1])])


def _ports(server: Any) -> list[int]:
    return [sock.getsockname()[1] for sock in server.sockets]


async def make_app_with_site() -> web.Application:
    """An app with a second server, by TCPSite, on another port."""
    worker = aiocluster.current_worker()
    assert worker is not None

    async def tell(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.app['name']} of {worker.id}")

    def named(name: str) -> web.Application:
        app = web.Application()
        app["name"] = name
        app.router.add_get("/", tell)
        return app

    async def second(app: web.Application) -> Any:
        runner = web.AppRunner(named("second"))
        await runner.setup()
        site = aiocluster.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        app["port"] = runner.addresses[0][1]
        yield
        await runner.cleanup()

    async def tell_port(request: web.Request) -> web.Response:
        return web.Response(text=str(request.app["port"]))

    app = named("first")
    app.router.add_get("/second", tell_port)
    app.cleanup_ctx.append(second)
    return app
