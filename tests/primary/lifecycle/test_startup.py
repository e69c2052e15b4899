"""The first start: what decides that it is over. More of it in test_supervisor.py."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aiocluster.errors import BootError, WorkerGone
from aiocluster.primary.lifecycle.startup import first_start
from aiocluster.primary.supervision.slot import Slot
from aiocluster.primary.workers.exit_log import ExitLog


def slot(ready: bool | None, trouble: str = "") -> Slot:
    """A slot whose first worker is ready, or died before (False), or was never forked (None)."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[Any] = loop.create_future()
    settled: asyncio.Future[None] = loop.create_future()
    settled.set_result(None)
    if ready is None:
        first.set_exception(WorkerGone("gone"))
    else:
        exited = loop.create_future()
        worker = SimpleNamespace(settled=settled, was_ready=ready, boot_failure=None, exited=exited)
        first.set_result(worker)
    return cast(Slot, SimpleNamespace(first=first, trouble=trouble, is_refused=asyncio.Event()))


async def test_one_that_is_ready_is_enough() -> None:
    """The others had their chance, or have died."""
    await first_start([slot(None), slot(False), slot(True)], ExitLog(60.0))


async def test_when_none_was_forked_the_trouble_is_the_cause() -> None:
    """It is what the kernel, or the zygote, said last."""
    with pytest.raises(BootError, match="cannot fork: no memory"):
        await first_start([slot(None), slot(None, "cannot fork: no memory")], ExitLog(60.0))


async def test_when_one_died_its_death_is_the_cause() -> None:
    """Rather than that another could not be forked."""
    with pytest.raises(BootError, match="died before it was ready"):
        await first_start([slot(None, "cannot fork"), slot(False)], ExitLog(60.0))


def refused(trouble: str) -> Slot:
    """A slot whose fork has failed for some time, and is still tried."""
    never = asyncio.get_running_loop().create_future()
    is_refused = asyncio.Event()
    is_refused.set()
    return cast(Slot, SimpleNamespace(first=never, trouble=trouble, is_refused=is_refused))


async def test_a_start_does_not_wait_for_what_the_kernel_refuses_again_and_again() -> None:
    """It ends with what was refused."""
    with pytest.raises(BootError, match="the kernel refused the fork"):
        await first_start([refused("the kernel refused the fork")] * 2, ExitLog(60.0))


async def test_it_serves_with_the_workers_that_there_are(caplog: pytest.LogCaptureFixture) -> None:
    """The rest is tried on; the log says what is missing, and why."""
    await first_start([slot(True), refused("the kernel refused the fork")], ExitLog(60.0))

    assert "1 workers are still starting; serving without them (the kernel refused" in caplog.text
