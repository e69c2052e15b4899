"""When a worker is killed at the latest."""

import asyncio
from collections.abc import Iterator

import pytest

from aiocluster.primary.workers.kill_timer import KillTimer
from tests.support.waiting import soon, turns


class Kills:
    """A deadline, and what it has killed for."""

    def __init__(self) -> None:
        self.deadline = KillTimer(self._kill)
        self.reasons: asyncio.Queue[str] = asyncio.Queue()

    def _kill(self, reason: str) -> None:
        self.reasons.put_nowait(reason)


@pytest.fixture
async def kills() -> Kills:
    return Kills()


@pytest.fixture(autouse=True)
def the_end(kills: Kills) -> Iterator[None]:
    yield
    kills.deadline.cancel()


async def test_it_kills_for_its_reason(kills: Kills) -> None:
    """Once."""
    kills.deadline.at_latest_in(0.0, "drain")
    assert await soon(kills.reasons.get()) == "drain"
    await turns()
    assert kills.reasons.empty()


async def test_it_may_be_brought_nearer(kills: Kills) -> None:
    """Then it is for the new reason."""
    kills.deadline.at_latest_in(600.0, "drain")
    kills.deadline.at_latest_in(0.0, "stop")
    assert await soon(kills.reasons.get()) == "stop"


async def test_it_is_never_moved_away(kills: Kills) -> None:
    """What was promised first holds."""
    kills.deadline.at_latest_in(0.0, "drain")
    kills.deadline.at_latest_in(600.0, "stop")
    assert await soon(kills.reasons.get()) == "drain"


async def test_none_is_left_when_it_is_cancelled(kills: Kills) -> None:
    """Also before there was one, and twice."""
    kills.deadline.cancel()
    kills.deadline.at_latest_in(0.0, "drain")
    kills.deadline.cancel()
    kills.deadline.cancel()
    await turns()
    assert kills.deadline.state() is None
    assert kills.reasons.empty()


async def test_another_program_goes_on_with_it(kills: Kills) -> None:
    """It is as near there as here."""
    kills.deadline.at_latest_in(600.0, "drain")
    state = kills.deadline.state()
    heir = Kills()
    heir.deadline.adopt(state)
    taken = heir.deadline.state()
    heir.deadline.cancel()
    assert state is not None
    assert taken is not None
    assert taken[0] == pytest.approx(state[0], abs=60.0)
    assert taken[1] == "drain"


async def test_none_is_adopted_as_none(kills: Kills) -> None:
    """A worker that serves has none."""
    kills.deadline.adopt(None)
    assert kills.deadline.state() is None
