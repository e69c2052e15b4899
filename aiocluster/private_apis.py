"""Everything that is used of private parts of the standard library, in one place.

The names that aiohttp keeps private are in worker/http/aiohttp_internals.py. Importing this module
needs none of these names; `missing()`, which a test calls on each Python version, names those
that have gone.

name                                    used because
asyncio.Future._asyncio_future_blocking a coroutine of uvloop is driven without a task
asyncio._get_running_loop               returns None without a loop, where the public one raises
atexit._clear, atexit._run_exitfuncs    a forked process drops hooks of its parent, and runs its own
importlib's ModuleSpec._initializing     a module counts as imported while its import serves
logging._handlerList                    all handlers are flushed before an exec
multiprocessing.process._children       children of the parent process are no children of a fork
multiprocessing.process.*._inheriting   an import without a `__name__` guard gets the usual error
multiprocessing.process.*._popen        the end of a child that another part of the program reaped
multiprocessing.util._exit_function     is registered again after `atexit._clear`
runpy._run_module_as_main               a folder or zip file runs as `__main__`, as Python runs it
socket.socket._accept                   returns a bare descriptor: 3 to 4 µs less a connection
subprocess._args_from_interpreter_flags a new interpreter gets this one's flags
threading._threading_atexits            pools of threads end before a forked process exits
"""

import asyncio
import atexit
import logging
import multiprocessing.process
import multiprocessing.util
import runpy
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_multiprocessing: Any = multiprocessing
_NEEDED: tuple[tuple[Any, str], ...] = (
    (asyncio.Future, "_asyncio_future_blocking"),
    (asyncio, "_get_running_loop"),
    (atexit, "_clear"),
    (atexit, "_run_exitfuncs"),
    (logging, "_handlerList"),
    (multiprocessing.process, "_children"),
    (multiprocessing.process.current_process(), "_popen"),
    (multiprocessing.util, "_exit_function"),
    (runpy, "_run_module_as_main"),
    (socket.socket, "_accept"),
    (subprocess, "_args_from_interpreter_flags"),
    (threading, "_threading_atexits"),
)


def missing() -> list[str]:
    """Return the names above that this Python lacks."""
    return [f"{owner!r}: {name}" for owner, name in _NEEDED if not hasattr(owner, name)]


def is_in_a_loop() -> bool:
    """Return True if an event loop runs in this thread."""
    return asyncio._get_running_loop() is not None


def acknowledge(future: "asyncio.Future[Any]") -> None:
    """Accept the future that a coroutine has yielded, as a task does: its callbacks follow."""
    future._asyncio_future_blocking = False


def accept_of(sock: socket.socket) -> Callable[[], tuple[int, Any]]:
    """Return a function that accepts one connection: its descriptor and the client's address."""
    accept: Callable[[], tuple[int, Any]] = sock._accept  # type: ignore[attr-defined]
    return accept


def forget_exit_hooks() -> None:
    """Drop the exit hooks of the parent process; keep multiprocessing's own."""
    atexit._clear()
    atexit.register(_multiprocessing.util._exit_function)


def run_exit_hooks() -> None:
    """Run the hooks that `atexit` has, as the interpreter does at its end."""
    atexit._run_exitfuncs()


def end_thread_pools() -> None:
    """Run the hooks that end the pools of concurrent.futures; they wait without a limit."""
    for end_pool in reversed(getattr(threading, "_threading_atexits", ())):
        end_pool()


def multiprocessing_children() -> list[Any]:
    """Return the processes that multiprocessing has started here and not yet joined."""
    return list(_multiprocessing.process._children)


def forget_multiprocessing_children() -> None:
    """Drop the children of the parent process, after a fork."""
    _multiprocessing.process._children.clear()


def note_exit_code(process: Any, code: int) -> None:
    """Set the exit code of a multiprocessing process that was reaped elsewhere."""
    process._popen.returncode = code


@contextmanager
def as_a_child_of_multiprocessing() -> Iterator[None]:
    """Count as a child that is starting: if what runs inside starts a process, that fails."""
    process: Any = multiprocessing.process.current_process()
    process._inheriting = True
    try:
        yield
    finally:
        del process._inheriting


def end_import(module: Any) -> None:
    """Mark a module that is being imported as imported; another one stays as it is."""
    spec = getattr(module, "__spec__", None)
    if getattr(spec, "_initializing", False):
        spec._initializing = False  # type: ignore[union-attr]


def log_handlers() -> Iterable[logging.Handler]:
    """Return all log handlers that exist."""
    handlers: Any = logging
    return filter(None, [reference() for reference in handlers._handlerList])


def interpreter_flags() -> list[str]:
    """Return the options that this interpreter was started with, for another one."""
    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]


def run_module_as_main(name: str) -> None:
    """Run a module as `__main__`, as `python -m` does, and leave `sys.argv` alone."""
    runpy._run_module_as_main(name, alter_argv=False)  # type: ignore[attr-defined]
