"""What the user's code asks of, and is told about, its worker's place in the cluster."""

import asyncio
import sys

import pytest

from aiocluster.errors import ConfigError
from aiocluster.worker.api.readiness import Readiness
from tests.support.waiting import soon, turns


async def test_who_need_not_say_so_is_ready() -> None:
    """By default nobody is asked; to say it all the same changes nothing."""
    readiness = Readiness()
    assert readiness.is_declared
    await soon(readiness.wait_declared())
    readiness.declare_ready()
    await soon(readiness.wait_declared())


async def test_who_has_to_say_so_is_waited_for() -> None:
    """Until the first time it does; again is no mistake."""
    readiness = Readiness(explicit=True)
    waiting = asyncio.create_task(readiness.wait_declared())
    await turns(20)
    assert not waiting.done()
    assert not readiness.is_declared

    readiness.declare_ready()
    readiness.declare_ready()

    await soon(waiting)
    assert readiness.is_declared


async def test_a_thread_may_say_it() -> None:
    """Where caches are warmed, mostly; and nothing else need wake the loop."""
    readiness = Readiness(explicit=True)
    waiting = asyncio.create_task(readiness.wait_declared())
    await turns()

    await asyncio.to_thread(readiness.declare_ready)

    await soon(waiting)


def test_a_thread_that_is_late_harms_nobody() -> None:
    """The loop has gone, and with it all that could be ready."""

    async def stand() -> Readiness:
        return Readiness(explicit=True)

    asyncio.run(stand()).declare_ready()


async def test_it_is_ready_from_its_serving_to_its_leaving() -> None:
    """And never again."""
    readiness = Readiness()
    assert not readiness.is_ready
    readiness.serve()
    assert readiness.is_ready
    readiness.leave()
    assert not readiness.is_ready
    readiness.serve()
    assert not readiness.is_ready


async def test_each_callback_is_called_once_in_order() -> None:
    """Sync or async, the same one twice if it was registered twice."""
    readiness, said = Readiness(), list[str]()

    async def later() -> None:
        await asyncio.sleep(0)
        said.append("later")

    readiness.on_drain(lambda: said.append("first"))
    readiness.on_drain(later)
    readiness.on_drain(later)
    readiness.on_drain(lambda: said.append("second"))

    await soon(readiness.run_on_drain_callbacks())
    await soon(readiness.run_on_drain_callbacks())

    assert said == ["first", "second", "later", "later"]


async def test_a_callback_that_was_taken_off_is_not_called() -> None:
    """Taken off twice, it takes off no other."""
    readiness, said = Readiness(), list[int]()
    off = readiness.on_drain(lambda: said.append(1))
    readiness.on_drain(lambda: said.append(2))
    off()
    off()

    await soon(readiness.run_on_drain_callbacks())

    assert said == [2]


async def test_a_callback_that_fails_is_logged_and_ends_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever it raises: an exit too, and a cancellation of its own."""
    readiness, said = Readiness(), list[str]()

    async def fail() -> None:
        raise RuntimeError("async mistake")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def last() -> None:
        await asyncio.sleep(0)
        said.append("last")

    readiness.on_drain(lambda: sys.exit("sync mistake"))
    for callback in (fail, cancelled, last):
        readiness.on_drain(callback)

    await soon(readiness.run_on_drain_callbacks())

    assert said == ["last"]
    assert "sync mistake" in caplog.text
    assert "async mistake" in caplog.text


async def test_what_cannot_be_called_is_refused_by_name() -> None:
    """Where it is given, not when it is needed."""
    with pytest.raises(ConfigError, match="on_drain: 17 is not a function without arguments"):
        Readiness().on_drain(17)  # type: ignore[arg-type]


async def test_who_is_told_to_drain_is_stopping_and_not_ready() -> None:
    """Whoever waits for it is woken, and who comes later does not wait; twice is once."""
    readiness = Readiness()
    readiness.serve()
    waiting = asyncio.create_task(readiness.stopping())
    await turns()
    assert not waiting.done()
    assert not readiness.is_stopping

    readiness.stop()
    readiness.stop()

    await soon(waiting)
    await soon(readiness.stopping())
    assert readiness.is_stopping
    assert not readiness.is_ready


async def test_a_stop_that_is_only_announced_stops_nobody() -> None:
    """For `pre_drain_wait` a job works on, as an app serves on."""
    readiness = Readiness()
    readiness.leave()

    assert not readiness.is_stopping
