"""Writes the stacks of this worker when the primary requests them. See ipc/stacks.py.

First faulthandler writes the stack of every thread, at once and without the interpreter's lock.
The stacks of the loop's tasks follow as soon as the main thread runs Python code again, in any
function. So they also come from a loop that is blocked in Python, or in a call that a signal
interrupts.
"""

import asyncio
import faulthandler
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from aiocluster.ipc.stacks import END, STACKS_SIGNAL

# Tasks at the same place are shown once. The places, and the calls that led to each, are limited
# to a readable number.
_MAX_PLACES = 100
_MAX_FRAMES = 30

# The tasks that are named at one place, at most.
_MAX_NAMES = 3


def show_stacks_on_request(fd: int) -> None:
    """Make this process append its stacks to `fd` at each STACKS_SIGNAL from now on."""
    loop = asyncio.get_running_loop()

    def show_tasks(number: int, frame: FrameType | None) -> None:
        # This interrupts any function of the user's code: no exception may reach it.
        try:
            text = "\n".join(_told(asyncio.all_tasks(loop), asyncio.current_task(loop)))
        except Exception as error:
            text = f"cannot show the tasks: {error!r}"
        os.write(fd, f"\n{text}\n".encode(errors="replace") + END)

    signal.signal(STACKS_SIGNAL, show_tasks)
    # faulthandler's handler in C comes first, and calls `show_tasks` afterwards.
    faulthandler.register(STACKS_SIGNAL, file=fd, all_threads=True, chain=True)


def _told(tasks: "set[asyncio.Task[Any]]", current: "asyncio.Task[Any] | None") -> Iterator[str]:
    places: dict[tuple[str, ...], list[str]] = {}
    for task in sorted(tasks, key=lambda task: task is not current):
        name = f"{task.get_name()} (running)" if task is current else task.get_name()
        places.setdefault(tuple(_frames(task.get_coro())), []).append(name)
    yield f"{len(tasks)} tasks of the loop (most recent call first):"
    for stack, names in [*places.items()][:_MAX_PLACES]:
        yield _title(names)
        yield from stack
    if len(places) > _MAX_PLACES:
        yield f"and tasks at {len(places) - _MAX_PLACES} more places"


def _title(names: list[str]) -> str:
    named = ", ".join(names[:_MAX_NAMES])
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"Task {named}{more}:" if len(names) == 1 else f"Tasks {named}{more}:"


def _frames(awaited: Any) -> list[str]:
    """Return the calls of a coroutine down to the awaited object, the innermost first."""
    found: list[str] = []
    while awaited is not None and len(found) < _MAX_FRAMES:
        frame, awaited = _step(awaited)
        if frame is not None:
            code = frame.f_code
            found.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
    return found[::-1]


def _step(awaited: Any) -> tuple[FrameType | None, Any]:
    """Return a coroutine's or generator's frame and awaited object; else None, None."""
    if hasattr(awaited, "cr_frame"):
        return awaited.cr_frame, awaited.cr_await
    if hasattr(awaited, "gi_frame"):
        return awaited.gi_frame, awaited.gi_yieldfrom
    return None, None
