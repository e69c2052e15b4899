"""Starts tasks that run as long as the cluster does: an error that ends one is logged."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("aiocluster")


def start_task(coroutine: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
    """Run `coroutine` as a task of the running loop; an error that ends it is logged at once.

    `what` completes the sentence "… was ended by an error". The caller cancels the task.
    """
    task = asyncio.get_running_loop().create_task(coroutine)
    task.add_done_callback(lambda _: _on_end(task, what))
    return task


def _on_end(task: asyncio.Task[None], what: str) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s was ended by an error", what, exc_info=error)
