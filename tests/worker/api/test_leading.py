"""Whether this worker leads; the test plays the primary."""

import asyncio

from aiocluster.ipc.scoreboard import LEADS
from aiocluster.worker.api.leading import Leading
from tests.support.waiting import soon, turns


def new_row() -> memoryview:
    return memoryview(bytearray(16 * 8)).cast("Q")


async def test_the_row_says_so_at_any_moment() -> None:
    """No message has to be read, so a loop that does not turn keeps nobody leading."""
    row = new_row()
    leading = Leading(row)
    assert not leading.is_leader
    row[LEADS] = 1
    assert leading.is_leader
    row[LEADS] = 0
    assert not leading.is_leader


async def test_who_drains_does_not_lead() -> None:
    """A primary that has died takes nothing back, and the next one chooses a leader anew."""
    row = new_row()
    leading = Leading(row)
    row[LEADS] = 1
    leading.stop()

    assert not leading.is_leader
    assert not await soon(leading.begun())


async def test_who_waits_hears_when_it_begins() -> None:
    """At once where it has begun already; every one that waits."""
    row = new_row()
    leading = Leading(row)
    waiting = [asyncio.create_task(leading.begun()) for _ in range(2)]
    await turns()
    row[LEADS] = 1
    leading.hear()

    assert await soon(asyncio.gather(*waiting)) == [True, True]
    assert await soon(leading.begun())


async def test_a_message_that_comes_too_late_wakes_nobody() -> None:
    """It led for a moment, and was not asked then; the next time counts."""
    row = new_row()
    leading = Leading(row)
    waiting = asyncio.create_task(leading.begun())
    await turns()
    leading.hear()
    await turns()
    assert not waiting.done()
    row[LEADS] = 1
    leading.hear()

    await soon(waiting)
