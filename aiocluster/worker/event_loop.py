"""The loop of a worker that has imported the app by itself.

An object that the import bound to a loop (a client, a pool, a lock) works in that loop only. So if
the import left a loop open, the worker runs on it. Mostly there is none, and the worker makes one.
"""

import asyncio
import gc
import warnings

from aiocluster.config.elsewhere import on_linux
from aiocluster.errors import ConfigError

if on_linux():
    import uvloop


def loop_after_import(given: object = None) -> asyncio.AbstractEventLoop:
    """Return the given loop, the loop that the import left, or a new one.

    Raise ConfigError if a worker cannot run on this loop.
    """
    if isinstance(given, asyncio.AbstractEventLoop):
        return _checked(given)
    if not _open_loops():
        return uvloop.new_event_loop()
    gc.collect()  # a loop that only the collector still holds does not count
    loops = _open_loops()
    if (current := _current()) in loops:
        loops = [current]
    if not loops:
        return uvloop.new_event_loop()
    if len(loops) > 1:
        raise ConfigError(
            f"importing the app left {len(loops)} open event loops, and none of them is the"
            " current one: a worker runs on one loop; close the others, or name it with"
            " asyncio.set_event_loop"
        )
    return _checked(loops[0])


def _checked(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    if loop.is_closed():
        raise ConfigError("web.run_app was given a loop that is closed")
    if not isinstance(loop, uvloop.Loop):
        raise ConfigError(
            f"importing the app left an open event loop of type {type(loop).__name__}, and a"
            " worker runs on uvloop's: close it, or make it with asyncio.new_event_loop, which"
            " gives one of uvloop's here"
        )
    return loop


def _open_loops() -> list[asyncio.AbstractEventLoop]:
    """Return the loops that are not closed and do not run; a running one is its thread's."""
    # `type` and not isinstance: an object may claim any class, and run any code to do so.
    found = [one for one in gc.get_objects() if issubclass(type(one), asyncio.AbstractEventLoop)]
    return [one for one in found if not one.is_closed() and not one.is_running()]


def _current() -> asyncio.AbstractEventLoop | None:
    """Return the loop that was set as the current one; make none if there is none."""
    with warnings.catch_warnings():
        # Newer Pythons deprecate policies.
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = getattr(asyncio, "get_event_loop_policy", lambda: None)()
    loop = getattr(getattr(policy, "_local", None), "_loop", None)
    return loop if isinstance(loop, asyncio.AbstractEventLoop) else None
