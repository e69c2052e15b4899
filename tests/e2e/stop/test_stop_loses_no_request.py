"""A stop loses nothing on connections that clients keep using."""

import asyncio
import signal
from pathlib import Path

from tests.support.cluster import program_of
from tests.support.program import Program
from tests.support.wire import Wire


async def use(wire: Wire, told: asyncio.Event) -> int:
    """Ask again and again until a response is the last; return how many there were."""
    count = 0
    while True:
        response = await wire.get("/who")
        assert response.status == 200
        count += 1
        if response.headers.get("connection") == "close":
            told.set()
            return count


async def stopped(program: Program) -> None:
    """Stop it under load: what is asked is answered, whoever idles may ask once more."""
    url = await program.url()
    told = asyncio.Event()
    async with Wire(url) as idle, Wire(url) as unused, Wire(url) as first, Wire(url) as second:
        for wire in (idle, unused):
            assert (await wire.get("/who")).status == 200
        users = [asyncio.create_task(use(wire, told)) for wire in (first, second)]
        await asyncio.sleep(0)
        program.send_signal(signal.SIGTERM)
        await asyncio.gather(*users)

        # The stop has begun, and this connection has been idle ever since.
        assert (await idle.get("/who")).headers["connection"] == "close"
        assert await idle.rest() == b""

        # Somebody waits for the end.
        program.send_signal(signal.SIGINT)
        assert await unused.rest() == b""
    assert await program.exit_code() == 0


async def test_a_connection_is_answered_until_a_response_says_close(tmp_path: Path) -> None:
    """Those that are used all the time, and one that idles; an INT closes what is not used."""
    async with program_of(tmp_path, idle_grace=600, graceful_timeout=3600) as program:
        async with asyncio.timeout(120):
            await stopped(program)
        output = await program.all_output()

    assert "could not finish" not in output
    assert "Traceback" not in output
