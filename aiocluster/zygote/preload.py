"""Imports the app once, in the zygote, so that a new worker costs only a fork.

If the import leaves something that breaks in a fork (see leftovers.py), the zygote starts itself
again without an import, and each worker imports for itself.
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
    """The state of the process before an import."""

    holdings: Holdings = field(default_factory=look)
    modules: list[object] = field(default_factory=lambda: [*sys.modules.values()])
    memory: int = field(default_factory=anonymous_bytes)
    environ: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    folder: int = field(default_factory=lambda: _folder())
    is_program: bool = False  # the program itself has imported the app

    @classmethod
    def the_program(cls, ours: Collection[int]) -> "Before":
        """Return the state of this process before the program ran; `ours` are descriptors."""
        return cls(holdings=inherited(ours), modules=[], is_program=True)

    def prepare_exec(self) -> None:
        """Hide the import's descriptors and folder from the program that replaces this one."""
        if self.folder >= 0:
            os.fchdir(self.folder)
        for fd in open_descriptors() - self.holdings.descriptors.keys():
            with suppress(OSError):
                os.set_inheritable(fd, False)


@dataclass(frozen=True, slots=True)
class Imported:
    """An app that is imported, and what its import left in the process."""

    app: object
    left: list[str] = field(default_factory=list)  # what breaks in a fork
    generators: list[str] = field(default_factory=list)  # random generators with one state
    grown: int = 0  # bytes
    by_program: bool = False  # the program imported it before it called run

    def notes(self, name: str) -> Iterator[str]:
        """Yield the notes for the user if all workers share this import of `name`."""
        if self.left and self.by_program:
            yield program_note(self.left)
        elif self.left:
            yield insistence_note(name, self.left)
        if self.generators:
            yield generators_note(self.generators)


def inspected(app: object, before: Before) -> Imported:
    """Return the import of `app`, compared with the state before."""
    gc.collect()  # objects that only the collector still knows do not count
    grown = max(anonymous_bytes() - before.memory, 0)
    left = left_behind(before.holdings, look())
    known = {id(module) for module in before.modules}
    # A module may have two names; a script replaces the module __main__.
    new = {id(module): module for module in sys.modules.values() if id(module) not in known}
    own = generators.made_by(new.values())
    return Imported(app, left, own, grown, before.is_program)


def prefer_uvloop() -> None:
    """Make uvloop's loops the default of the app, during the import and later, as in workers.

    Objects bound to such a loop can then be used in the worker's loop.
    """
    if not hasattr(uvloop, "EventLoopPolicy"):  # Python 3.16 has no policies any more
        return
    with warnings.catch_warnings():
        # Newer Pythons deprecate policies.
        warnings.simplefilter("ignore", DeprecationWarning)
        # The program may have chosen another policy.
        if type(asyncio.get_event_loop_policy()) is asyncio.DefaultEventLoopPolicy:
            asyncio.set_event_loop_policy(_policy())


def _policy() -> Any:
    class PreloadPolicy(uvloop.EventLoopPolicy):  # type: ignore[misc]
        """A uvloop policy that makes a loop in the main thread wherever Python's own would."""

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
