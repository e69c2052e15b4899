"""Each example, on a free port, does what its docstring says."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from tests.support.program import PATIENCE, Program

EXAMPLES = Path(__file__).parents[2] / "examples"


@asynccontextmanager
async def running(name: str, folder: Path) -> AsyncIterator[tuple[Program, str]]:
    """Run an example on a port of its own; it must end well."""
    source = (EXAMPLES / name).read_text().replace("127.0.0.1:8000", "127.0.0.1:0")
    async with Program(folder, source) as program:
        yield program, await program.url()
        assert await program.stop() == 0
        assert "Traceback" not in await program.all_output()


async def get(url: str, headers: dict[str, str] | None = None) -> str:
    """GET with a connection of its own."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=headers) as response,
    ):
        assert response.status == 200
        return await response.text()


async def until(answer: Callable[[], Awaitable[str]], wanted: str) -> None:
    """Ask until the answer is the wanted one: it is on its way."""
    async with asyncio.timeout(PATIENCE):
        while await answer() != wanted:
            continue


async def test_hello(tmp_path: Path) -> None:
    """Every worker says hello."""
    async with running("hello.py", tmp_path) as (program, url):
        count = len(program.workers())
        said = {(await get(url)).split(" (pid")[0] for _ in range(count)}

    assert said == {f"hello from worker {number}" for number in range(1, count + 1)}


async def test_live_metrics(tmp_path: Path) -> None:
    """The requests served show up on the terminal."""
    async with running("live_metrics.py", tmp_path) as (program, url):
        for _ in range(3):
            await get(url)
        assert "p99" in await program.line("^3 requests")


async def test_messages(tmp_path: Path) -> None:
    """No two tickets are alike, whichever worker hands them out."""
    async with running("messages.py", tmp_path) as (_, url):
        tickets = [int(await get(url)) for _ in range(6)]
    assert sorted(tickets) == [1, 2, 3, 4, 5, 6]


async def test_fork_per_cpu(tmp_path: Path) -> None:
    """The primary and its workers are announced."""
    async with running("fork_per_cpu.py", tmp_path) as (program, url):
        await program.line("primary .* is running")
        for number in range(1, len(program.workers()) + 1):
            await program.line(f"worker {number} runs as")
        assert (await get(url)).startswith("hello")


async def test_restart_on_exit(tmp_path: Path) -> None:
    """A worker that crashed is replaced by the example's own code."""
    async with running("restart_on_exit.py", tmp_path) as (program, url):
        with suppress(aiohttp.ClientError):
            await get(url + "/crash")
        await program.line("died with code 42")
        await program.line("worker 3 takes its place")
        assert (await get(url)).startswith("hello")


async def test_rolling_deploy(tmp_path: Path) -> None:
    """A changed file is served after HUP; a broken one changes nothing but a line."""
    async with running("rolling_deploy.py", tmp_path) as (program, url):
        assert await get(url) == "version 1, generation 1\n"
        file = tmp_path / "program.py"
        file.write_text(file.read_text().replace("VERSION = 1", "VERSION = 2"))
        program.send_signal(signal.SIGHUP)
        await program.line("^generation 2 serves")
        assert await get(url) == "version 2, generation 2\n"

        good = file.read_text()
        file.write_text(good.replace("VERSION = 2", "VERSION = 3 +"))
        program.send_signal(signal.SIGHUP)
        await program.line("the deploy failed, the old version serves on: SyntaxError")
        assert await get(url) == "version 2, generation 2\n"


async def test_stats_to_primary(tmp_path: Path) -> None:
    """The primary counts what the workers report."""
    async with running("stats_to_primary.py", tmp_path) as (program, url):
        for path in ("/a", "/b", "/a"):
            await get(url + path)
        await program.line(r"requests: \{'/a': 2, '/b': 1\}")


async def test_line_protocol(tmp_path: Path) -> None:
    """Both workers shout back, on one port."""
    source = (EXAMPLES / "line_protocol.py").read_text().replace("8000", "0")
    async with Program(tmp_path, source) as program:
        line = await program.line(r"listening on .* \(opened by a worker\)")
        port = int(line.partition(" (opened")[0].rpartition(":")[2])
        await until(lambda: shouted(port), "worker 1 says: HELLO\n")
        await until(lambda: shouted(port), "worker 2 says: HELLO\n")
        assert await program.stop() == 0
        assert "Traceback" not in await program.all_output()


async def shouted(port: int) -> str:
    """Return the answer to one line, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello\n")
    answer = await reader.readline()
    writer.close()
    return answer.decode()


async def test_broadcast(tmp_path: Path) -> None:
    """What one worker was told, each of the two workers says."""
    async with running("broadcast.py", tmp_path) as (program, url):
        async with (
            aiohttp.ClientSession() as session,
            session.put(url + "/motd", data="back at five") as response,
        ):
            assert response.status == 202
        await program.line("told 2 workers")
        for _ in range(2):
            await until(lambda: get(url + "/motd"), "back at five\n")


async def say_and_hear(session: aiohttp.ClientSession, url: str) -> set[str]:
    """Two come into a room one after the other; return in which workers they are."""
    async with session.ws_connect(url) as tom, session.ws_connect(url) as ann:
        greetings = [await socket.receive_str() for socket in (tom, ann)]
        assert [greeting.split(",")[0] for greeting in greetings] == ["1 here", "2 here"]
        await tom.send_str("more tea?")
        assert [await socket.receive_str() for socket in (tom, ann)] == ["more tea?"] * 2
    return {greeting.partition(", in ")[2] for greeting in greetings}


async def test_sticky_chat(tmp_path: Path) -> None:
    """Whoever enters a room hears what is said in it; rooms are spread over the workers."""
    async with running("sticky_chat.py", tmp_path) as (_, url), aiohttp.ClientSession() as session:
        assert "<script>" in await get(f"{url}/rooms/tea")
        homes = [await say_and_hear(session, f"{url}/rooms/{number}") for number in range(12)]

    assert {len(home) for home in homes} == {1}
    assert len(set[str]().union(*homes)) > 1


async def test_web_and_jobs(tmp_path: Path) -> None:
    """The cron runs in one worker at a time; when that is killed, in another."""
    async with running("web_and_jobs.py", tmp_path) as (program, url):
        assert await get(url) == "hello\n"
        leader = re.search(r"worker (\d+) \(pid (\d+)\)", await program.line("cleans up"))
        assert leader is not None
        os.kill(int(leader[2]), signal.SIGKILL)
        await program.line(f"worker (?!{leader[1]} ).* cleans up")


async def test_autoscaling(tmp_path: Path) -> None:
    """A pile of requests brings workers, its end sends them home."""

    async def keep_busy(url: str) -> None:
        while True:
            await get(url)

    async with running("autoscaling.py", tmp_path) as (program, url):
        clients = [asyncio.create_task(keep_busy(url)) for _ in range(12)]
        await program.line(r"^from 1 to . workers: in_flight .* over 5 for")
        for client in clients:
            client.cancel()
        await asyncio.wait(clients)
        await program.line(r"^from . to 1 workers: in_flight .* under 5 for")


async def test_own_policy(tmp_path: Path) -> None:
    """Those who pay are not where the others are."""
    async with running("own_policy.py", tmp_path) as (_, url):
        others = {await get(url) for _ in range(6)}
        paid = {await get(url, {"X-Plan": "paid"}) for _ in range(6)}

    assert others <= {"hello from slot 1\n", "hello from slot 3\n"}
    assert paid <= {"hello from slot 0\n", "hello from slot 2\n"}
