"""HTTP as clients other than browsers speak it."""

from pathlib import Path

from tests.support.program import Program
from tests.support.wire import Wire

SOURCE = """
from aiohttp import web
import aiocluster

async def echo(request):
    return web.Response(body=await request.read(), headers={"X-Path": request.path})

def make_app():
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", echo)
    return app

if __name__ == "__main__":
    aiocluster.run(make_app, workers=2, bind="127.0.0.1:0")
"""

HOST = b"Host: x\r\n"


async def test_http_is_served_in_all_its_forms(tmp_path: Path) -> None:
    """Chunks, pipelines, single bytes, HTTP/1.0 with and without keep-alive, Expect, nonsense."""
    async with Program(tmp_path, SOURCE) as program:
        url = await program.url()
        await chunked(url)
        await pipelined(url)
        await byte_by_byte(url)
        await http_1_0(url)
        await expect_continue(url)
        await nonsense(url)
        assert await program.stop() == 0
        assert "Traceback" not in await program.all_output()


async def chunked(url: str) -> None:
    """A chunked body arrives whole, and the connection can be used again."""
    async with Wire(url) as wire:
        for body in (b"", b"5\r\nhello\r\n", b"5\r\nhello\r\n6\r\n world\r\n"):
            head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
            await wire.send(head + body + b"0\r\n\r\n")
            assert (await wire.response()).body == b"".join(body.split(b"\r\n")[1::2])


async def pipelined(url: str) -> None:
    """Requests sent together are answered each, in order, also those with a body."""
    async with Wire(url) as wire:
        await wire.send(
            b"".join(
                b"POST /%d HTTP/1.1\r\n%bContent-Length: 3\r\n\r\n%03d" % (number, HOST, number)
                for number in range(30)
            )
        )
        for number in range(30):
            response = await wire.response()
            assert response.headers["x-path"] == f"/{number}"
            assert response.body == b"%03d" % number


async def byte_by_byte(url: str) -> None:
    """A request may come in as many pieces as it has bytes."""
    async with Wire(url) as wire:
        for byte in b"PUT /slow HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nok":
            await wire.send(bytes([byte]))
        assert (await wire.response()).body == b"ok"


async def http_1_0(url: str) -> None:
    """Without keep-alive the connection ends with the response; with it, it goes on."""
    async with Wire(url) as wire:
        await wire.send(b"GET / HTTP/1.0\r\n\r\n")
        response = await wire.response()
        assert (response.version, response.status) == ("HTTP/1.0", 200)
        assert await wire.rest() == b""
    async with Wire(url) as wire:
        for _ in range(2):
            await wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (await wire.response()).headers["connection"] == "keep-alive"


async def expect_continue(url: str) -> None:
    """Who asks first is told to go on."""
    async with Wire(url) as wire:
        head = b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        await wire.send(head)
        assert b" 100 " in await wire.until(b"\r\n\r\n")
        await wire.send(b"ok")
        assert (await wire.response()).body == b"ok"


async def nonsense(url: str) -> None:
    """What is no HTTP is answered 400, and its connection closed."""
    async with Wire(url) as wire:
        await wire.send(b"\x16\x03\x01 no http at all\r\n\r\n")
        assert (await wire.response()).status == 400
        assert await wire.rest() == b""
