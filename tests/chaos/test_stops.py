"""TERM to all processes at once, under load: what clients have begun is answered."""

import signal
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.scene import ANSWERS, SCALE, program_of, send, under_load
from tests.support.ports import unused_port

ROUNDS = 3 * SCALE

# Both end as soon as all connections have ended, whatever keeps a client from its next request.
LONG_GRACE: dict[str, Any] = {"idle_grace": 600, "graceful_timeout": 1200}


async def test_terms_to_all_processes_lose_nothing(tmp_path: Path, dice: Random) -> None:
    """The program ends with 0 and is started again; nobody is refused but in between."""
    program = program_of(tmp_path, bind=f"127.0.0.1:{unused_port()}", **LONG_GRACE)
    async with under_load(tmp_path, dice, program=program) as scene:
        for _ in range(ROUNDS):
            await scene.stop_and_start()
            await scene.load.each(ANSWERS)
    scene.assert_only_refused_in_absence()
    assert set(scene.seen.told) <= {
        "WebSocket closed with 1001",
        "pipelined behind a last answer",
    }


async def test_terms_to_workers_lose_nothing(tmp_path: Path, dice: Random) -> None:
    """To one, to some, or to all of them: those that are left serve until others have come."""
    async with under_load(tmp_path, dice) as scene:
        for _ in range(ROUNDS):
            send(scene.some_workers(), signal.SIGTERM)
            await scene.go_on()
    scene.assert_nothing_lost()
