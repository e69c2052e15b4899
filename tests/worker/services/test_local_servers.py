import asyncio
import socket

import pytest

from aiocluster.errors import ClusterStopping
from aiocluster.worker.services.local_servers import LocalServers, _is_lost
from tests.support.waiting import turns_until

LIMIT = 2**16


def servers() -> LocalServers:
    return LocalServers(memoryview(bytearray(16 * 8)).cast("Q"))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async for line in reader:
        writer.write(line)
    writer.close()


class Quiet(asyncio.Protocol):
    """Says nothing."""


async def test_a_server_listens_by_itself() -> None:
    """start_server in a worker without a primary serves, and has the real port."""
    of_worker = servers()
    server = await of_worker.start_server(echo, "127.0.0.1", 0, LIMIT)
    ((host, port),) = server.addresses
    assert (host, server.is_serving()) == ("127.0.0.1", True)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"hello\n")
    assert await reader.readline() == b"hello\n"
    writer.close()
    of_worker.hurry(30.0)
    of_worker.stop()
    await of_worker.drain()
    assert (of_worker.cut, server.is_closed) == ([], True)


async def test_an_address_in_use_is_an_oserror() -> None:
    """What the kernel refuses reaches the code that asked."""
    of_worker = servers()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await of_worker.create_server(Quiet, *taken.getsockname())


async def test_a_server_that_is_started_later_waits() -> None:
    """start_serving=False opens the server only when the app says so."""
    of_worker = servers()
    server = await of_worker.create_server(Quiet, "127.0.0.1", 0, start_serving=False)
    assert not server.is_serving()
    await server.start_serving()
    _, writer = await asyncio.open_connection(*server.addresses[0])
    writer.close()
    server.close()
    await server.wait_closed()


async def test_an_open_connection_is_cut_at_the_deadline() -> None:
    """A drain has an end though a client stays, and names what was cut."""
    of_worker = servers()
    server = await of_worker.create_server(Quiet, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    await turns_until(lambda: bool(of_worker.transports(server)))
    of_worker.hurry(0.0)
    of_worker.stop()
    await of_worker.drain()
    (cut,) = of_worker.cut
    assert cut.startswith("connection from 127.0.0.1:")
    assert await reader.read() == b""
    writer.close()


async def test_a_worker_that_drains_opens_no_server() -> None:
    """As with a primary: it would never be closed."""
    of_worker = servers()
    of_worker.stop()
    with pytest.raises(ClusterStopping):
        await of_worker.create_server(Quiet, "127.0.0.1", 0)


async def test_a_factory_that_raises_closes_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A client is not left waiting, and the cause is in the log."""

    def broken() -> asyncio.Protocol:
        raise RuntimeError("no protocol today")

    of_worker = servers()
    server = await of_worker.create_server(broken, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.addresses[0])
    assert await reader.read() == b""
    assert "no protocol today" in caplog.text
    writer.close()
    server.close()


class OfProactor(asyncio.Transport):
    """A lost transport of Windows' loop, which keeps its protocol."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__({"socket": sock})

    def is_closing(self) -> bool:
        return True

    def get_protocol(self) -> asyncio.BaseProtocol:
        return Quiet()


def test_a_transport_that_keeps_its_protocol_is_lost_once_its_socket_is_closed() -> None:
    """As with asyncio's proactor: a drain on Windows would wait for ever."""
    with socket.socket() as sock:
        assert not _is_lost(OfProactor(sock))
    assert _is_lost(OfProactor(sock))
