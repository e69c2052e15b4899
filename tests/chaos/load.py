"""The load client: python -m tests.chaos.load '{"url": "http://127.0.0.1:8000", ...}'

It asks until its input ends or says `stop`, or until every mode has had its `rounds`. Then it
prints one line of JSON: by mode the answers, the failures by kind with all that is known of each,
what the server told, and times in seconds. A line `each N` on its input makes it print a line
when each mode has had N further answers, and `some N` when all of them together have.

    url           where
    seed          of all its dice
    connections   by mode (modes.py): how many
    rounds        a mode ends after so many, 0: never; one is a request, or those of one write
    lives         rounds that a connection lasts at most
    pause         seconds between two rounds of a connection, at most; half of them have none
    timeout       seconds that a round may take, its connecting included
"""

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import urlsplit

import uvloop

from tests.chaos.connection import Connection
from tests.chaos.modes import MODES, Client, Mode
from tests.chaos.tally import Failure, Tally

# After a failure: a server that refuses is not asked as fast as we can.
_PAUSE_AFTER_FAILURE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the command line gives."""

    url: str
    seed: int
    connections: dict[str, int]
    rounds: int = 0
    lives: int = 1000
    pause: float = 0.003
    timeout: float = 60.0


class Load:
    """All modes at once, in one loop."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._place = urlsplit(config.url)
        self._now = time.perf_counter  # uvloop's own clock has milliseconds
        self._stopped = asyncio.Event()
        self._began = self._now()
        self._tallies = {mode: Tally(self._began) for mode in config.connections}
        self._begun = dict.fromkeys(config.connections, 0)

    async def run(self) -> None:
        """Ask until told to stop; what was begun is ended."""
        async with asyncio.TaskGroup() as tasks:
            for name, count in self._config.connections.items():
                for number in range(count):
                    tasks.create_task(self._converse(name, number))

    def stop(self) -> None:
        """Let every connection end its round, and no other begin."""
        self._stopped.set()

    async def each(self, count: int) -> None:
        """Wait until each mode has had `count` further answers."""
        await asyncio.gather(*(tally.more(count) for tally in self._tallies.values()))

    async def some(self, count: int) -> None:
        """Wait until the modes together have had `count` further answers."""
        before = self._answered
        while self._answered < before + count:
            some = [asyncio.ensure_future(tally.more(1)) for tally in self._tallies.values()]
            await asyncio.wait(some, return_when=asyncio.FIRST_COMPLETED)
            for other in some:
                other.cancel()

    @property
    def _answered(self) -> int:
        return sum(tally.answered for tally in self._tallies.values())

    def result(self) -> dict[str, Any]:
        """Return what was seen."""
        return {
            "seed": self._config.seed,
            "seconds": self._now() - self._began,
            "modes": {name: tally.result() for name, tally in self._tallies.items()},
        }

    async def _converse(self, name: str, number: int) -> None:
        """Be one of the connections of a mode, and the next one whenever it ends."""
        place = (self._place.hostname or "", self._place.port or 80)
        dice = Random(f"{self._config.seed} {name} {number}")
        client = Client(dice, self._tallies[name], self._now)
        conversation = Conversation(MODES[name], client, place, self._config.lives)
        while self._goes_on(name):
            await client.pause(self._config.pause)
            await conversation.go_on(self._config.timeout)
        conversation.close()

    def _goes_on(self, name: str) -> bool:
        """May one more round of this mode begin? It is counted."""
        self._begun[name] += 1
        enough = 0 < self._config.rounds < self._begun[name]
        return not enough and not self._stopped.is_set()


class Conversation:
    """One connection at a time: opened when there is none, closed when it had its last round."""

    def __init__(self, mode: Mode, client: Client, place: tuple[str, int], lives: int) -> None:
        self._mode = mode
        self._lives = lives
        self._client = client
        self._place = place
        self._connection: Connection | None = None

    async def go_on(self, timeout: float) -> None:  # noqa: ASYNC109 (a failure of its own kind)
        """One round. A failure is counted, and ends the connection."""
        try:
            async with asyncio.timeout(timeout):
                await self._round(await self._ready())
        except Failure as failure:
            await self._fail(failure)
        except TimeoutError:
            await self._fail(Failure("timeout", f"not over after {timeout} s"))

    def close(self) -> None:
        """Close what is open. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _ready(self) -> Connection:
        """Return the connection, a new one if there is none, or none any more."""
        if self._connection is not None:
            if self._connection.is_upgraded or not self._connection.was_closed():
                return self._connection
            self._client.tally.tell("closed between two requests, unannounced")
            self.close()
        began = self._client.now()
        self._connection = connection = await Connection.open(
            *self._place, receive_bytes=self._mode.receive_bytes
        )
        connection.began = began
        connection.rounds = min(self._client.dice.randint(*self._mode.lives), self._lives)
        self._client.tally.connections += 1
        return connection

    async def _round(self, connection: Connection) -> None:
        await self._mode.round(self._client, connection)
        connection.rounds -= 1
        if connection.is_over:
            await connection.end()
        if connection.is_over or connection.rounds <= 0:
            self.close()

    async def _fail(self, failure: Failure) -> None:
        """Every request that was asked and not answered has failed; if none was, one could not."""
        client, connection = self._client, self._connection
        known = {
            "port": connection.port if connection else 0,
            "since": connection.began if connection else 0.0,
            "worker": connection.worker if connection else None,
            "reused": connection is not None and connection.answers > 0,
        }
        for token in client.asked or [""]:
            client.tally.fail(failure, client.now(), token=token, **known)
        client.asked.clear()
        self.close()
        await asyncio.sleep(_PAUSE_AFTER_FAILURE)


async def main(config: Config) -> None:
    """Run until told to stop, and print the result."""
    load = Load(config)
    loop = asyncio.get_running_loop()
    waiting: set[asyncio.Task[None]] = set()

    async def report(line: str, reached: Awaitable[None]) -> None:
        await reached
        _print({"reached": line.strip()})

    def obey(line: str) -> None:
        match line.split():
            case ["each", count]:
                waiting.add(asyncio.create_task(report(line, load.each(int(count)))))
            case ["some", count]:
                waiting.add(asyncio.create_task(report(line, load.some(int(count)))))
            case [] | ["stop"]:
                load.stop()
            case _:
                sys.exit(f"not a command: {line!r}")

    # A thread, since input may be a file, which no loop can watch.
    threading.Thread(target=_read, args=(loop, obey, load.stop), daemon=True).start()
    await load.run()
    for task in waiting:
        task.cancel()
    _print(load.result())


def _read(
    loop: asyncio.AbstractEventLoop, obey: Callable[[str], None], stop: Callable[[], None]
) -> None:
    # Unbuffered: a thread that holds a buffer's lock when the interpreter ends would abort it.
    with contextlib.suppress(RuntimeError), open(0, "rb", buffering=0, closefd=False) as lines:
        for line in lines:
            loop.call_soon_threadsafe(obey, line.decode())
        loop.call_soon_threadsafe(stop)


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(Config(**json.loads(sys.argv[1]))))
