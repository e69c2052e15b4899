"""The result of an import of the app, and the leftovers of an import by a worker itself."""

import asyncio
import signal
from dataclasses import dataclass

from aiocluster.worker.event_loop import loop_after_import
from aiocluster.zygote.ends import end_children
from aiocluster.zygote.holdings import running_children


@dataclass(slots=True)
class Import:
    """The result of an import: an app or an error."""

    app: object = None
    error: BaseException | None = None
    is_refused: bool = False  # the error is a refused setting

    def load(self) -> object:
        """Return the app, or raise why there is none."""
        if self.error is not None:
            raise self.error
        return self.app


class OwnImport:
    """The leftovers of an import that a worker has run for itself: children, handlers, a loop."""

    def __init__(self) -> None:
        self._children: set[int] = set()

    def over(self, loop: object = None) -> asyncio.AbstractEventLoop:
        """Return the loop on which the worker runs: `loop`, or the one that the import has left."""
        self._children = {*running_children()}
        # The module may have set handlers of its own. A terminal sends these signals to all
        # processes, and the primary handles them.
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda number, frame: None)
        return loop_after_import(loop)

    def end(self) -> None:
        """End the child processes that the import started."""
        end_children(self._children)
