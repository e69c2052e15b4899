"""What the user's code asks of, and is told about, its worker's place in the cluster."""

import asyncio
import sys

import pytest

from aiocluster.errors import ConfigError
from aiocluster.worker.standing import Standing
from tests.support.waiting import soon


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
