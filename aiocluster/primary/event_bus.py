"""Delivers events to callbacks and iterators.

A callback gets an event at once; each iterator has a queue of its own. An iterator that is
not read must not fill memory: its oldest events are dropped and counted, except workers'
messages, which are held back at their sender instead (see `congested`).
"""

import asyncio
import inspect
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiocluster.errors import ConfigError
from aiocluster.events import Event, EventsMissed, WorkerMessage

log = logging.getLogger("aiocluster.events")

E = TypeVar("E", bound=Event)

# Events that one iterator may leave unread before the oldest are dropped: hours of normal
# work, seconds of a crash loop.
MAX_UNREAD = 10_000

# Above this, workers get no more credit for messages, so that they stop sending.
CONGESTED_UNREAD = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    kind: type[Event]
    callback: Callable[[Any], Any]


class EventBus:
    """A publisher of the primary's events to callbacks and iterators."""

    def __init__(self) -> None:
        self._callbacks: list[_Entry] = []
        # Weak references: an iterator that its user has dropped frees its memory.
        self._queues: set[weakref.ref[_Queue]] = set()  # a WeakSet takes 2 us to look through
        self._awaited: set[_Queue] = set()
        self._relieved: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Future[Any]] = set()
        self._held: list[Event] | None = None
        self._closed = False

    @property
    def congested(self) -> bool:
        """True while an iterator has too many unread events, or too many callbacks still run."""
        if len(self._tasks) > CONGESTED_UNREAD or len(self._held or ()) > CONGESTED_UNREAD:
            return True
        return any(len(queue.unread) > CONGESTED_UNREAD for queue in self._read())

    @property
    def unread(self) -> list[WorkerMessage]:
        """Return the messages of workers that the slowest iterator has still to read."""
        return max((queue.messages for queue in self._read()), key=len, default=[])

    @property
    def is_idle(self) -> bool:
        """True if all that was published is handled."""
        return not self._tasks and not self.unread

    def hold(self) -> None:
        """Keep events until `release`: their callbacks and iterators are not registered yet."""
        self._held = []

    def release(self) -> None:
        """Publish the kept events, in their order. Idempotent."""
        held, self._held = self._held or [], None
        for event in held:
            self.publish(event)
        self._relieve()

    def on(self, kind: type[E], callback: Callable[[E], Any]) -> Callable[[], None]:
        """Call `callback(event)` for each event of `kind`; return a function that ends that.

        A coroutine function runs as a task. The bus logs what a callback raises.
        """
        if not (isinstance(kind, type) and issubclass(kind, Event)):
            raise ConfigError(
                f"on: {kind!r} is not an event; give a class, such as aiocluster.WorkerExited,"
                " or aiocluster.Event for all of them"
            )
        if not callable(callback):
            raise ConfigError(f"on: {callback!r:.80} is not a function that takes the event")
        # An object of its own: the same callback may be registered twice.
        entry = _Entry(kind, callback)
        self._callbacks.append(entry)

        def off() -> None:
            if entry in self._callbacks:
                self._callbacks.remove(entry)

        return off

    def publish(self, event: Event) -> None:
        """Give `event` to every iterator, and to the callbacks for its kind."""
        if self._held is not None:
            self._held.append(event)
            return
        for queue in self._read():
            queue.put(event)
        for entry in [*self._callbacks]:
            if isinstance(event, entry.kind):
                self._call(entry.callback, event)

    def events(self) -> AsyncIterator[Event | EventsMissed]:
        """Return an iterator over the events from now on; it ends when the bus closes."""
        queue = _Queue()
        if self._closed:
            queue.close()
        reference = weakref.ref(queue, self._drop)
        self._queues.add(reference)
        return self._iterate(queue, reference)

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the bus is no longer congested."""
        self._relieved.append(callback)

    def close(self) -> None:
        """Cancel running callbacks; end every iterator after its unread events. Idempotent."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for queue in self._read():
            queue.close()

    def _read(self) -> "list[_Queue]":
        """Return the queues that an iterator may still read."""
        return [queue for reference in [*self._queues] if (queue := reference()) is not None]

    def _drop(self, reference: "weakref.ref[_Queue]") -> None:
        self._queues.discard(reference)
        self._relieve()

    async def _iterate(
        self, queue: "_Queue", reference: "weakref.ref[_Queue]"
    ) -> AsyncIterator[Event | EventsMissed]:
        try:
            while (event := await self._next(queue)) is not None:
                self._relieve()
                yield event
        finally:
            self._drop(reference)

    async def _next(self, queue: "_Queue") -> Event | EventsMissed | None:
        # A queue that a task waits for is in use, even if nothing else refers to that task.
        self._awaited.add(queue)
        try:
            return await queue.get()
        finally:
            self._awaited.discard(queue)

    def _relieve(self) -> None:
        if self._relieved and not self.congested:
            relieved, self._relieved = self._relieved, []
            for callback in relieved:
                callback()

    def _call(self, callback: Callable[[Any], Any], event: Event) -> None:
        try:
            result = callback(event)
        except (Exception, SystemExit, KeyboardInterrupt):
            log.exception("a callback for %s raised", type(event).__name__)
            return
        if result is not None and inspect.isawaitable(result):
            task = asyncio.ensure_future(self._finish(result, type(event).__name__))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def _finish(self, result: Awaitable[Any], name: str) -> None:
        # Caught here: a loop lets an exit through that its task raises.
        try:
            await result
        except (Exception, SystemExit, KeyboardInterrupt):
            log.exception("a callback for %s raised", name)

    def _ended(self, task: "asyncio.Future[Any]") -> None:
        self._tasks.discard(task)
        self._relieve()


class _Queue:
    """The unread events of one iterator."""

    def __init__(self) -> None:
        self.unread: deque[Event | EventsMissed] = deque()
        self._droppable = 0  # unread events that are no messages
        self._missed = 0
        self._closed = False
        self._arrived = asyncio.Event()

    @property
    def messages(self) -> list[WorkerMessage]:
        return [event for event in self.unread if isinstance(event, WorkerMessage)]

    def put(self, event: Event) -> None:
        if self._closed:
            return
        if not isinstance(event, WorkerMessage):
            if self._droppable >= MAX_UNREAD:
                self._drop_oldest()
            self._droppable += 1
        self.unread.append(event)
        self._arrived.set()

    async def get(self) -> Event | EventsMissed | None:
        while not self.unread and not self._closed:
            self._arrived.clear()
            await self._arrived.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return EventsMissed(missed)
        if not self.unread:
            return None
        event = self.unread.popleft()
        self._droppable -= not isinstance(event, WorkerMessage)
        return event

    def _drop_oldest(self) -> None:
        """Drop the oldest event that is no message: senders' windows bound the messages."""
        oldest = next(
            index for index, event in enumerate(self.unread) if not isinstance(event, WorkerMessage)
        )
        del self.unread[oldest]
        self._droppable -= 1
        self._missed += 1

    def close(self) -> None:
        self._closed = True
        self._arrived.set()
