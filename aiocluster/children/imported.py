"""What an import of the app gave or raised; and what a worker's own import leaves in it."""

import asyncio
import signal
from dataclasses import dataclass

from aiocluster.worker.event_loop import loop_after_import
from aiocluster.zygote.ends import end_children
from aiocluster.zygote.holdings import running_children


@dataclass(slots=True)
class Import:
    """What an import has given, or raised."""

    app: object = None
    error: BaseException | None = None
    is_refused: bool = False  # it asks for what cannot be had

    def load(self) -> object:
        """Return the app, or raise why there is none."""
        if self.error is not None:
            raise self.error
        return self.app


class OwnImport:
    """What the import of the app by one worker for itself has left."""

    def __init__(self) -> None:
        self._children: set[int] = set()

    def over(self, loop: object = None) -> asyncio.AbstractEventLoop:
        """Return the loop that the worker is to run on: this one, or as the import has left it."""
        self._children = {*running_children()}
        # The module may have set handlers of its own. A terminal sends these to all processes,
        # and the primary decides what they mean.
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda number, frame: None)
        return loop_after_import(loop)

    def end(self) -> None:
        """End the child processes that the import started."""
        end_children(self._children)
