"""The load client sees what goes wrong: servers that fail in one way each, counted as that."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.chaos.app import make_app
from tests.chaos.load import Config, Load
from tests.chaos.modes import MODES
from tests.support.program import PATIENCE

ROUNDS = 3

Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def token_of(reader: asyncio.StreamReader) -> str:
    """Read one request without a body; return its token."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head.split(b" ")[1].rpartition(b"/")[2].decode()


def response(body: str, headers: str = "", status: int = 200) -> bytes:
    return (
        f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nX-Worker: 7\r\n{headers}\r\n{body}"
    ).encode()


def reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.asynccontextmanager
async def served(server: Server) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await server(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        host, port = listening.sockets[0].getsockname()
        yield f"http://{host}:{port}"


async def seen_from(url: str, mode: str = "keepalive", **config: Any) -> dict[str, Any]:
    """Return what one connection of this mode saw in a few rounds."""
    given: dict[str, Any] = {"seed": 1, "rounds": ROUNDS, "timeout": PATIENCE}
    load = Load(Config(url=url, connections={mode: 1}, **(given | config)))
    await load.run()
    seen: dict[str, Any] = load.result()["modes"][mode]
    return seen


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await token_of(reader)
    reset(writer)


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await token_of(reader)


async def stops_in_the_middle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(response(await token_of(reader))[:-1])


async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def fails(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(response(await token_of(reader), status=503))


async def answers_another(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await token_of(reader)
    writer.write(response("0" * 16))


async def goes_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(response(await token_of(reader), "Connection: close\r\n") + b"x")


async def is_no_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")


@pytest.mark.parametrize(
    ("server", "kind"),
    [
        (resets, "reset"),
        (says_nothing, "cut"),
        (stops_in_the_middle, "cut"),
        (never_answers, "timeout"),
        (fails, "status"),
        (answers_another, "body"),
        (is_no_server, "body"),
    ],
)
async def test_each_failure_is_counted_once_by_its_kind(server: Server, kind: str) -> None:
    """As many failures as requests: nothing is sent a second time."""
    asked = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await server(reader, writer)

    async with served(count) as url:
        seen = await seen_from(url, timeout=0.05 if kind == "timeout" else PATIENCE)

    assert seen["failures"] == {kind: ROUNDS}
    assert asked == ROUNDS
    assert seen["answered"] == 0


async def test_refused_is_counted() -> None:
    """Nobody listens there."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        seen = await seen_from(f"http://127.0.0.1:{sock.getsockname()[1]}")

    assert seen["failures"] == {"refused": ROUNDS}


async def test_bytes_after_a_last_answer_are_a_failure() -> None:
    """The answer itself was right, and what follows belongs to nobody."""
    async with served(goes_on) as url:
        seen = await seen_from(url)

    assert (seen["answered"], seen["failures"]) == (ROUNDS, {"body": ROUNDS})


async def test_a_close_that_was_announced_is_no_failure() -> None:
    """The next request goes on a new connection."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(await token_of(reader), "Connection: close\r\n"))

    async with served(one) as url:
        seen = await seen_from(url)

    assert (seen["answered"], seen["connections"]) == (ROUNDS, ROUNDS)
    assert (seen["failures"], seen["told"]) == ({}, {})


async def test_a_request_lost_on_a_reused_connection_is_a_failure() -> None:
    """The second one was written, and its connection closed: what browsers hide."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(await token_of(reader)))
        await token_of(reader)

    async with served(one) as url:
        seen = await seen_from(url, rounds=2)

    assert (seen["answered"], seen["failures"]) == (1, {"cut": 1})
    (sample,) = seen["samples"]
    assert (sample["reused"], sample["worker"]) == (True, "7")


async def test_every_request_of_a_pipeline_that_is_lost_counts() -> None:
    """One was answered; the others were asked all the same."""

    async def first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(await token_of(reader)))
        await writer.drain()
        reset(writer)

    async with served(first) as url:
        load = Load(Config(url=url, seed=2, connections={"pipeline": 1}, rounds=1))
        await load.run()
        seen = load.result()["modes"]["pipeline"]

    assert seen["answered"] <= 1
    assert sum(seen["failures"].values()) == len({lost["token"] for lost in seen["samples"]}) > 1


CLOSES = [(1012, True), (1001, True), (1000, False), (1011, False)]


@pytest.mark.parametrize(("code", "told"), CLOSES)
async def test_what_a_websocket_is_told_is_no_failure(code: int, told: bool) -> None:
    """Going away and service restart are; any other end is a failure."""

    async def close(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        await ws.close(code=code)
        return ws

    app = web.Application()
    app.router.add_get("/websocket/{token}", close)
    async with by_aiohttp(app) as url:
        seen = await seen_from(url, "websocket", rounds=2)

    assert seen["answered"] == 1  # its opening
    assert seen["told"] == ({f"WebSocket closed with {code}": 1} if told else {})
    assert seen["failures"] == ({} if told else {"status": 1})


@contextlib.asynccontextmanager
async def by_aiohttp(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("mode", MODES)
async def test_every_mode_is_answered_by_a_server_that_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """And the same seed asks for the same again."""
    monkeypatch.chdir(tmp_path)
    begun = []
    for _ in range(2):
        async with by_aiohttp(make_app()) as url:
            seen = await seen_from(url, mode, rounds=30)
        assert (seen["failures"], seen["told"]) == ({}, {})
        assert seen["answered"] >= 30
        begun.append((tmp_path / "begun").read_text())
        (tmp_path / "begun").unlink()
    assert begun[0] == begun[1] != ""
