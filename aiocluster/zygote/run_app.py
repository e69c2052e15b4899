"""Replaces aiohttp's run_app, so that workers serve an app that would have served by itself.

In the zygote the call returns when the generation ends: workers are forked inside it. In a worker
it returns when the worker has drained. So the lines after the call run once in each process, as
they would under aiohttp.
"""

import asyncio
import functools
import inspect
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from aiohttp import web

from aiocluster.config.elsewhere import on_linux
from aiocluster.config.kinds import kind_name, name_of
from aiocluster.errors import BootError, ConfigError
from aiocluster.private_apis import end_import, is_in_a_loop

_LOOPS: list[type[asyncio.AbstractEventLoop]] = [asyncio.SelectorEventLoop]
if on_linux():
    import uvloop

    _LOOPS.append(uvloop.Loop)

log = logging.getLogger("aiocluster")

# A function that serves an app with the other arguments of the call, and returns afterwards.
Serve = Callable[[object, Mapping[str, Any]], None]


class CallsRun(BaseException):
    """The error of a script that calls `aiocluster.run`, which only the primary can run."""


class RunApp:
    """The one call of run_app that this process serves; other servers are refused."""

    installed: "RunApp | None" = None

    def __init__(self, serve: Serve, name: str, *, for_script: bool) -> None:
        """Create it; `name` is the user's name for the code that may call run_app."""
        self._serve = serve
        self._name = name
        self._for_script = for_script
        self._pid = os.getpid()
        self._original = web.run_app
        self._guarded: list[tuple[Any, str, Any]] = []
        self.was_called = self._is_ending = False
        # Why the code cannot be served, even if the code has caught that error.
        self.refusal: BaseException | None = None

    def install(self) -> None:
        """Replace aiohttp's run_app, before any of the user's code is imported."""
        RunApp.installed = self

        @functools.wraps(self._original)  # as Python's errors for a wrong call name it
        def run_app(app: Any, **arguments: Any) -> None:
            self._run_app(app, arguments)

        web.run_app = run_app
        self._guard(web.BaseSite, "start")
        for loop in _LOOPS:
            self._guard(loop, "create_server")
            self._guard(loop, "create_unix_server")

    def imported(self) -> None:
        """Allow servers of the app's own, since the user's code is imported."""
        while self._guarded:
            owner, name, own = self._guarded.pop()
            delattr(owner, name)
            if own is not None:  # otherwise the method is inherited
                setattr(owner, name, own)

    def forked(self) -> None:
        """Note that this process is a worker from now on."""
        self._pid = os.getpid()

    def refuse(self, error: BaseException) -> NoReturn:
        """Raise this error, and keep it as the refusal."""
        self.refusal = self.refusal or error
        raise error

    @property
    def _is_ours(self) -> bool:
        """True in the thread in which this process is a zygote or a worker."""
        return os.getpid() == self._pid and threading.current_thread() is threading.main_thread()

    @property
    def _is_importing(self) -> bool:
        """True while the user's code is being imported in this process."""
        return os.getpid() == self._pid and bool(self._guarded)

    def _run_app(self, app: Any, arguments: Mapping[str, Any]) -> None:
        """Serve `app`: see aiohttp.web.run_app."""
        if not self._is_ours:
            if self._is_importing:
                self._end_thread()
            return self._original(app, **arguments)  # another program
        try:
            if self.was_called:
                self._end_program()
            self._check(app)
            self.was_called = True
            self.imported()
            return self._serve(app, arguments)
        except (BootError, ConfigError) as error:
            self.refuse(error)
        finally:
            _close_unused(app)

    def _end_program(self) -> NoReturn:
        """End the program, since a process serves once and it calls run_app again."""
        if not self._is_ending:
            self._is_ending = True
            log.info("%s calls web.run_app again: a process serves once, and ends", self._name)
            sys.exit()
        # The code has caught the SystemExit, and would spin.
        logging.shutdown()
        os._exit(0)

    def _check(self, app: object) -> None:
        if is_in_a_loop():
            raise ConfigError(
                f"{self._name} calls web.run_app in a running event loop (under asyncio.run, or in"
                " the app's factory): call it outside of every coroutine, or name a function that"
                " makes the app (pkg.module:make_app)"
            )
        if isinstance(app, web.Application) or inspect.isawaitable(app):
            return
        if callable(app):
            name = name_of(app)
            raise ConfigError(
                f"{self._name}: web.run_app was given {name} itself, and not the app that it makes;"
                f" call it: web.run_app({name}())"
            )
        raise ConfigError(
            f"{self._name}: web.run_app was given {app!r:.80}, {kind_name(app)}; give an"
            " Application or an awaitable of one"
        )

    def _guard(self, owner: Any, method: str) -> None:
        """Refuse servers that start during the import: they would serve in this process."""
        original = getattr(owner, method)

        async def guarded(starter: Any, *args: Any, **options: Any) -> Any:
            if self._is_ours:
                self.refuse(self._serves_by_itself(f"{type(starter).__name__}.{method}"))
            return await original(starter, *args, **options)

        self._guarded.append((owner, method, vars(owner).get(method)))
        setattr(owner, method, guarded)

    def _end_thread(self) -> NoReturn:
        """Refuse the start, and end this thread; an error in the thread would be shown twice."""
        self.refusal = self.refusal or ConfigError(
            f"{self._name} calls web.run_app in the thread {threading.current_thread().name!r},"
            " while it is imported: that would serve in one process, and not in the workers. Let"
            " it call web.run_app in the main thread, or start the thread in the app's on_startup"
        )
        sys.exit()

    def _serves_by_itself(self, how: str) -> ConfigError:
        return ConfigError(
            f"{self._name} starts a server by itself ({how}) and has not called web.run_app: that"
            " would serve in one process, and not in the workers. Let it give its app to"
            " web.run_app, or name a function that makes the app (pkg.module:make_app)"
        )


def note_call_of_run() -> None:
    """Note a call of `aiocluster.run`; raise CallsRun in a script that runs to be served."""
    running = RunApp.installed
    if running is None or not running._is_ours or running.was_called:
        return
    if running._for_script:
        running.refuse(CallsRun())
    # A program in one process serves here.
    running.was_called = True
    running.imported()


def note_cluster() -> None:
    """Refuse a Cluster in a script that runs to be served."""
    running = RunApp.installed
    if running is None or not running._is_ours or running.was_called or not running._for_script:
        return
    name = running._name
    running.refuse(
        ConfigError(
            f"{name} makes a Cluster itself, so it is the program that serves: run it with python,"
            f" `python {name}`, in the place of `aiocluster run {name}`"
        )
    )


def end_imports_under_way() -> None:
    """Mark the modules that are being imported as imported, since they serve now.

    Otherwise an import of one of them in another thread would wait until the worker ends.
    """
    for module in [*sys.modules.values()]:
        end_import(module)


def _close_unused(app: object) -> None:
    """Close a coroutine that only other processes have awaited, so that Python does not warn."""
    if inspect.iscoroutine(app) and inspect.getcoroutinestate(app) == inspect.CORO_CREATED:
        app.close()
