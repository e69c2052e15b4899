"""Imports the app once, in the zygote, so that a fork is all a new worker costs.

What an import leaves may not survive a fork (see leftovers.py). Then the zygote starts itself
again, imports nothing, and each worker imports for itself.
"""

import asyncio
import gc
import os
import sys
import threading
import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiocluster.config.elsewhere import on_linux
from aiocluster.zygote import generators
from aiocluster.zygote.holdings import anonymous_bytes, inherited, look, open_descriptors
from aiocluster.zygote.leftovers import (
    Holdings,
    generators_note,
    insistence_note,
    left_behind,
    program_note,
)

if on_linux():
    import uvloop


@dataclass(frozen=True, slots=True)
class Before:
    """What there was before an import."""

    holdings: Holdings = field(default_factory=look)
    modules: list[object] = field(default_factory=lambda: [*sys.modules.values()])
    memory: int = field(default_factory=anonymous_bytes)
    environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    folder: int = field(default_factory=lambda: _folder())
    is_program: bool = False  # there is nothing left to import: the program has done it

    @classmethod
    def the_program(cls, ours: Collection[int]) -> "Before":
        """What this process was started with, before it ran the program; `ours` are sockets."""
        return cls(holdings=inherited(ours), modules=[], is_program=True)

    def prepare_exec(self) -> None:
        """Let the program that comes in the place of this one find nothing of the import."""
        if self.folder >= 0:
            os.fchdir(self.folder)
        for fd in open_descriptors() - self.holdings.descriptors.keys():
            with suppress(OSError):
                os.set_inheritable(fd, False)


@dataclass(frozen=True, slots=True)
class Imported:
    """An app that is imported, and what its import left beside it."""

    app: object
    left: list[str] = field(default_factory=list)  # what no fork survives
    generators: list[str] = field(default_factory=list)  # random ones, with one state
    grown: int = 0  # bytes
    by_program: bool = False  # before it called run

    def notes(self, name: str) -> Iterator[str]:
        """Yield what the user should know when all workers share this import of `name`."""
        if self.left and self.by_program:
            yield program_note(self.left)
        elif self.left:
            yield insistence_note(name, self.left)
        if self.generators:
            yield generators_note(self.generators)


def inspected(app: object, before: Before) -> Imported:
    """Compare with what there was before: the import is over."""
    gc.collect()  # what only the collector still has is not held
    grown = max(anonymous_bytes() - before.memory, 0)
    left = left_behind(before.holdings, look())
    known = {id(module) for module in before.modules}
    # One may have two names; a script is another __main__ than there was.
    new = {id(module): module for module in sys.modules.values() if id(module) not in known}
    own = generators.made_by(new.values())
    return Imported(app, left, own, grown, before.is_program)


def prefer_uvloop() -> None:
    """Let the loops that the app makes, while it is imported and later, be of the workers' kind.

    What is bound to one of them can then be used in the worker's.
    """
    if not hasattr(uvloop, "EventLoopPolicy"):  # Python 3.16 has no policies any more
        return
    with warnings.catch_warnings():
        # Newer Pythons would rather have none.
        warnings.simplefilter("ignore", DeprecationWarning)
        # The program may have chosen another.
        if type(asyncio.get_event_loop_policy()) is asyncio.DefaultEventLoopPolicy:
            asyncio.set_event_loop_policy(_policy())


def _policy() -> Any:
    class PreloadPolicy(uvloop.EventLoopPolicy):  # type: ignore[misc]
        """uvloop's, but its main thread gets a loop wherever Python's own policy would make one."""

        def get_event_loop(self) -> Any:
            is_main = threading.current_thread() is threading.main_thread()
            if is_main and self._local._loop is None and sys.version_info < (3, 14):
                self.set_event_loop(self.new_event_loop())
            return super().get_event_loop()

    return PreloadPolicy()


def _folder() -> int:
    with suppress(OSError):
        return os.open(".", os.O_PATH | os.O_CLOEXEC)
    return -1
