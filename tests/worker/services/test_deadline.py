"""Until when a drain waits."""

import asyncio

from aiocluster.worker.services.deadline import DrainDeadline
from tests.support.waiting import soon, turns


def future() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


async def test_it_waits_for_all_of_them() -> None:
    """Also those that end long before the others."""
    one, other = future(), future()
    waiting = asyncio.create_task(DrainDeadline().wait_for([one, other], 0.0))
    one.set_result(None)
    await turns(20)
    assert not waiting.done()

    other.set_result(None)

    await soon(waiting)


async def test_a_deadline_that_has_passed_ends_the_wait() -> None:
    """What is not done then is the caller's to end."""
    deadline, endless = DrainDeadline(), future()
    deadline.at_latest_in(0.0)

    await soon(deadline.wait_for([endless], 0.0))

    assert not endless.done()


async def test_it_may_come_nearer_while_somebody_waits() -> None:
    """Told twice, the sooner counts; it never goes away again."""
    deadline = DrainDeadline()
    deadline.at_latest_in(1000.0)
    waiting = asyncio.create_task(deadline.wait_for([future()], 0.0))
    await turns(20)
    assert not waiting.done()

    deadline.at_latest_in(0.0)
    deadline.at_latest_in(1000.0)

    await soon(waiting)


async def test_what_can_end_at_once_does_so_within_its_grace() -> None:
    """Without time left a step is still given a moment."""
    deadline = DrainDeadline()
    deadline.at_latest_in(0.0)
    step = asyncio.create_task(turns(20))

    await soon(deadline.wait_for([step], 1000.0))

    assert step.done()
