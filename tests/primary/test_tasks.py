"""Tasks that run as long as the cluster does."""

import asyncio

import pytest

from aiocluster.primary.tasks import start_task
from tests.support.waiting import turns


async def fail() -> None:
    raise ValueError("a mistake of ours")


async def test_what_ends_a_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """At once, and not when the collector finds it."""
    task = start_task(fail(), "keeping watch")
    await turns()

    assert "keeping watch was ended by an error" in caplog.text
    assert "ValueError: a mistake of ours" in caplog.text
    assert task.done()


async def test_a_task_that_ends_or_is_cancelled_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """That is how they end."""
    done = start_task(asyncio.sleep(0), "sleeping")
    cancelled = start_task(asyncio.sleep(1000), "sleeping")
    cancelled.cancel()
    await asyncio.wait({done, cancelled})

    assert caplog.text == ""
