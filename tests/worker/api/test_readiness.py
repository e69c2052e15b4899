"""What the user's code asks of, and is told about, its worker's place in the cluster."""

import asyncio
import sys

import pytest

from aiocluster.errors import ConfigError
from aiocluster.worker.api.readiness import Standing
from tests.support.waiting import soon, turns


async def test_who_need_not_say_so_is_ready() -> None:
    """By default nobody is asked; to say it all the same changes nothing."""
    standing = Standing()
    assert standing.is_declared
    await soon(standing.wait_declared())
    standing.declare_ready()
    await soon(standing.wait_declared())


async def test_who_has_to_say_so_is_waited_for() -> None:
    """Until the first time it does; again is no mistake."""
    standing = Standing(explicit=True)
    waiting = asyncio.create_task(standing.wait_declared())
    await turns(20)
    assert not waiting.done()
    assert not standing.is_declared

    standing.declare_ready()
    standing.declare_ready()

    await soon(waiting)
    assert standing.is_declared


async def test_a_thread_may_say_it() -> None:
    """Where caches are warmed, mostly; and nothing else need wake the loop."""
    standing = Standing(explicit=True)
    waiting = asyncio.create_task(standing.wait_declared())
    await turns()

    await asyncio.to_thread(standing.declare_ready)

    await soon(waiting)


def test_a_thread_that_is_late_harms_nobody() -> None:
    """The loop has gone, and with it all that could be ready."""

    async def stand() -> Standing:
        return Standing(explicit=True)

    asyncio.run(stand()).declare_ready()


async def test_it_is_ready_from_its_serving_to_its_leaving() -> None:
    """And never again."""
    standing = Standing()
    assert not standing.is_ready
    standing.serve()
    assert standing.is_ready
    standing.leave()
    assert not standing.is_ready
    standing.serve()
    assert not standing.is_ready


async def test_each_callback_is_called_once_in_order() -> None:
    """Sync or async, the same one twice if it was registered twice."""
    standing, said = Standing(), list[str]()

    async def later() -> None:
        await asyncio.sleep(0)
        said.append("later")

    standing.on_drain(lambda: said.append("first"))
    standing.on_drain(later)
    standing.on_drain(later)
    standing.on_drain(lambda: said.append("second"))

    await soon(standing.say_goodbye())
    await soon(standing.say_goodbye())

    assert said == ["first", "second", "later", "later"]


async def test_a_callback_that_was_taken_off_is_not_called() -> None:
    """Taken off twice, it takes off no other."""
    standing, said = Standing(), list[int]()
    off = standing.on_drain(lambda: said.append(1))
    standing.on_drain(lambda: said.append(2))
    off()
    off()

    await soon(standing.say_goodbye())

    assert said == [2]


async def test_a_callback_that_fails_is_logged_and_ends_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever it raises: an exit too, and a cancellation of its own."""
    standing, said = Standing(), list[str]()

    async def fail() -> None:
        raise RuntimeError("async mistake")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def last() -> None:
        await asyncio.sleep(0)
        said.append("last")

    standing.on_drain(lambda: sys.exit("sync mistake"))
    for callback in (fail, cancelled, last):
        standing.on_drain(callback)

    await soon(standing.say_goodbye())

    assert said == ["last"]
    assert "sync mistake" in caplog.text
    assert "async mistake" in caplog.text


async def test_what_cannot_be_called_is_refused_by_name() -> None:
    """Where it is given, not when it is needed."""
    with pytest.raises(ConfigError, match="on_drain: 17 is not a function without arguments"):
        Standing().on_drain(17)  # type: ignore[arg-type]


async def test_who_is_told_to_drain_is_stopping_and_not_ready() -> None:
    """Whoever waits for it is woken, and who comes later does not wait; twice is once."""
    standing = Standing()
    standing.serve()
    waiting = asyncio.create_task(standing.stopping())
    await turns()
    assert not waiting.done()
    assert not standing.is_stopping

    standing.stop()
    standing.stop()

    await soon(waiting)
    await soon(standing.stopping())
    assert standing.is_stopping
    assert not standing.is_ready


async def test_a_stop_that_is_only_announced_stops_nobody() -> None:
    """For `pre_drain_wait` a job works on, as an app serves on."""
    standing = Standing()
    standing.leave()

    assert not standing.is_stopping
