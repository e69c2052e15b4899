"""The end of a worker: its last tasks, its threads, and the interpreter's exit hooks.

Python waits for threads and tasks without a limit. Here each wait has a limit, since the primary
kills a worker that still runs some time after the deadline of its drain.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from aiocluster import private_apis
from aiocluster.ipc.forks import leave_if_forked
from aiocluster.private_apis import end_thread_pools
from aiocluster.worker.app_exit import exit_code, expect_exits, is_exit

log = logging.getLogger("aiocluster.worker")

# Seconds that tasks and threads get to end if no time of the drain is left.
_END_GRACE = 0.25

# The remaining tasks or threads named in one log line: enough to see what they were.
_MAX_NAMED = 20


def run_to_the_end(
    loop: asyncio.AbstractEventLoop,
    main: Coroutine[Any, Any, int],
    leave: Callable[[BaseException], None],
) -> int:
    """Run `main` in the loop until it is over; return its result, or raise its exception.

    `leave` gets an exit that the app's code raises through the loop meanwhile, such as
    GracefulExit, and makes `main` end.
    """
    expect_exits(loop)
    task, process = loop.create_task(main, name="the worker"), os.getpid()
    while True:
        try:
            return loop.run_until_complete(task)
        except BaseException as error:
            if os.getpid() != process:
                leave_if_forked(process, exit_code(error))
            if task.done():
                raise
            leave(error)


async def end_tasks(seconds: float) -> bool:
    """Cancel all other tasks, as `web.run_app` does, and wait; return False if some run on.

    The wait takes `seconds` at most, but has a short minimum. The tasks' exceptions are logged.
    """
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    end = loop.time() + max(seconds, _END_GRACE)
    cancelled: set[asyncio.Task[Any]] = set()
    while (left := asyncio.all_tasks() - {me}) and loop.time() < end:
        for task in left - cancelled:  # a cancelled task may start others
            task.cancel()
        cancelled |= left
        await asyncio.wait(left, timeout=end - loop.time())
    _tell_errors(loop, cancelled)
    if left:
        _tell_left("tasks", [_name(task) for task in left])
    return await _end_generators(loop, max(end - loop.time(), _END_GRACE)) and not left


def end_threads(seconds: float) -> bool:
    """Wait for pools, and for threads that are no daemons; return False if some run on.

    The wait takes `seconds` at most, but has a short minimum.
    """
    end = time.monotonic() + max(seconds, _END_GRACE)
    ending = _end_pools()
    while (left := _threads(ending)) and (patience := end - time.monotonic()) > 0:
        left[0].join(patience)
    if named := [thread.name for thread in left if thread is not ending]:
        _tell_left("threads", named)
    return not named


def run_exit_hooks() -> None:
    """Run the interpreter's exit hooks; a forked child has to run them by itself."""
    private_apis.run_exit_hooks()
    logging.shutdown()


def _end_pools() -> threading.Thread | None:
    """Make the pools of threads and of processes finish their work and end.

    This waits for their threads without a limit, so it runs in a thread of its own: return that,
    or None if no pool runs or no thread could be started.
    """
    if not _threads(None):
        end_thread_pools()
        return None
    ending = threading.Thread(target=end_thread_pools, name="the end of the pools", daemon=True)
    try:
        ending.start()
    except RuntimeError:  # the kernel's limit of tasks is reached; the primary's deadline holds
        end_thread_pools()
        return None
    return ending


def _threads(ending: threading.Thread | None) -> list[threading.Thread]:
    """Return the threads to wait for: those of the app, and the one that ends the pools."""
    me = threading.current_thread()
    alive = [thread for thread in threading.enumerate() if thread is not me]
    return [thread for thread in alive if thread is ending or not thread.daemon]


async def _end_generators(loop: asyncio.AbstractEventLoop, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await loop.shutdown_asyncgens()
    except TimeoutError:
        log.warning("the worker ends, though asynchronous generators do not close")
        return False
    return True


def _tell_errors(loop: asyncio.AbstractEventLoop, tasks: "set[asyncio.Task[Any]]") -> None:
    for task in tasks:
        if not task.done() or task.cancelled():
            continue
        error = task.exception()
        if error is not None and not is_exit(error):  # the loop has let an exit through
            message = "a task that was left running raised when it was cancelled"
            loop.call_exception_handler({"message": message, "exception": error, "task": task})


def _tell_left(what: str, names: list[str]) -> None:
    more = len(names) - _MAX_NAMED
    shown = [*names[:_MAX_NAMED], f"and {more} more"] if more > 0 else names
    log.warning("the worker ends, though %s run on: %s", what, ", ".join(shown))


def _name(task: "asyncio.Task[Any]") -> str:
    coroutine = task.get_coro()
    return f"{task.get_name()} ({getattr(coroutine, '__qualname__', coroutine)})"
