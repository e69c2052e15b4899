"""Waits for the workers of the first start, and says why if none becomes ready."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiocluster.errors import BootError, ClusterStopping, WorkerGone
from aiocluster.launch.interpreter import CannotStart
from aiocluster.primary.processes.spawner import FORK_PATIENCE
from aiocluster.primary.supervision.slot import Slot
from aiocluster.primary.workers.exit_log import ExitLog
from aiocluster.timeouts import running_timeout

log = logging.getLogger("aiocluster.supervisor")

# Seconds that the others get to be ready after the first worker is, before connections are
# accepted, so that the first one does not get them all.
_START_TOGETHER = 5.0


async def first_start(slots: Sequence[Slot], exit_log: ExitLog) -> None:
    """Wait until all workers are ready or dead, or some are ready and the rest are late.

    Raises BootError, with the first worker's cause, if none is ready.
    """
    settling = {asyncio.ensure_future(_settled(slot)) for slot in slots}
    for outcome in asyncio.as_completed(settling):
        if await outcome:
            break
    else:
        raise _why_none_is_ready(slots, exit_log)
    _, pending = await asyncio.wait(settling, timeout=_START_TOGETHER)
    if late := len(pending) + sum(not slot.first.done() for slot in slots if slot.trouble):
        trouble = next((f" ({slot.trouble})" for slot in slots if slot.trouble), "")
        log.warning("%d workers are still starting; serving without them%s", late, trouble)


async def _settled(slot: Slot) -> bool:
    """Wait for the slot's first worker; return True if it is ready.

    It is not if it died before, took too long, or could not be forked in several tries.
    """
    refused: asyncio.Future[Any] = asyncio.ensure_future(slot.is_refused.wait())
    try:
        async with running_timeout(FORK_PATIENCE):
            await asyncio.wait([slot.first, refused], return_when=asyncio.FIRST_COMPLETED)
            if not slot.first.done():
                return False
            worker = slot.first.result()
    except (TimeoutError, WorkerGone, ClusterStopping, CannotStart):
        return False
    finally:
        refused.cancel()
    await asyncio.shield(worker.settled)
    return worker.was_ready


def _why_none_is_ready(slots: Sequence[Slot], exit_log: ExitLog) -> BootError:
    for slot in slots:
        if slot.first.done() and slot.first.exception() is None:
            return exit_log.why_not_ready(slot.first.result())
    trouble = (slot.trouble for slot in slots if slot.trouble)
    return BootError(next(trouble, "no worker was forked"))
