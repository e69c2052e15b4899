"""Who hears which event."""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import pytest

from aiocluster.errors import ConfigError
from aiocluster.events import (
    Event,
    EventsMissed,
    WorkerExited,
    WorkerForked,
    WorkerMessage,
    WorkerOnline,
)
from aiocluster.primary.event_bus import CONGESTED_UNREAD, MAX_UNREAD, EventBus
from tests.support.waiting import soon, turns


class SomeWorker:
    """As much of a worker as an event tells."""

    id, slot, role, generation, pid = 1, 0, "web", 1, 4711

    async def send(self, message: Any) -> None:
        raise NotImplementedError


WORKER = SomeWorker()


def numbered(number: int) -> WorkerMessage:
    return WorkerMessage(WORKER, number)


def exited(code: int) -> WorkerExited:
    return WorkerExited(WORKER, code, None, voluntary=False, reason="crash")


def event(number: int) -> WorkerForked:
    """An event that equals none with another number."""
    worker = SomeWorker()
    worker.id = number
    return _events.setdefault(number, WorkerForked(worker))


_events: dict[int, WorkerForked] = {}


async def read(events: AsyncIterator[Event | EventsMissed], count: int) -> list[Any]:
    return [await soon(anext(events)) for _ in range(count)]


async def test_an_iterator_hears_all_events_in_order() -> None:
    """From the call of `events` on, also before the first is asked for."""
    bus = EventBus()
    bus.publish(numbered(0))
    events = bus.events()
    for number in range(1, 4):
        bus.publish(numbered(number))

    assert await read(events, 3) == [numbered(1), numbered(2), numbered(3)]


async def test_a_waiting_iterator_is_woken() -> None:
    """An event reaches who already waits for it."""
    bus = EventBus()
    next_event = asyncio.ensure_future(anext(bus.events()))
    await turns()

    bus.publish(numbered(1))

    assert await soon(next_event) == numbered(1)


async def test_each_iterator_hears_everything() -> None:
    """One reader takes nothing from another."""
    bus = EventBus()
    first, second = bus.events(), bus.events()
    bus.publish(numbered(1))

    assert await read(first, 1) == await read(second, 1) == [numbered(1)]


async def test_a_callback_hears_only_its_kind_and_at_once() -> None:
    """`on(kind)` is called before `publish` returns; Event is every kind."""
    bus, online, every = EventBus(), list[Event](), list[Event]()
    bus.on(WorkerOnline, online.append)
    bus.on(Event, every.append)

    bus.publish(WorkerForked(WORKER))
    bus.publish(WorkerOnline(WORKER))

    assert online == [WorkerOnline(WORKER)]
    assert every == [WorkerForked(WORKER), WorkerOnline(WORKER)]


async def test_a_callback_that_was_taken_off_hears_nothing_more() -> None:
    """What `on` returns takes the callback off, and may be called again."""
    bus, heard = EventBus(), list[Event]()
    off = bus.on(Event, heard.append)
    bus.publish(numbered(1))

    off()
    off()
    bus.publish(numbered(2))

    assert heard == [numbered(1)]


async def test_a_callback_may_take_itself_off() -> None:
    """A callback for one event only hurts none of the others."""
    bus, heard = EventBus(), list[Event]()

    def once(event: Event) -> None:
        off()
        heard.append(event)

    off = bus.on(Event, once)
    bus.on(Event, heard.append)

    bus.publish(numbered(1))
    bus.publish(numbered(2))

    assert heard == [numbered(1), numbered(1), numbered(2)]


async def test_a_callback_that_raises_is_logged_and_hurts_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A user's mistake stays the user's."""
    bus, heard = EventBus(), list[Event]()

    def broken(event: Event) -> None:
        raise RuntimeError("the user's mistake")

    bus.on(Event, broken)
    bus.on(Event, heard.append)
    events = bus.events()
    bus.publish(numbered(1))

    assert heard == await read(events, 1) == [numbered(1)]
    assert "WorkerMessage raised" in caplog.text
    assert "the user's mistake" in caplog.text


async def test_a_coroutine_callback_runs_as_a_task() -> None:
    """An async callback may wait without holding up the others."""
    bus, heard, go = EventBus(), asyncio.Queue[Event](), asyncio.Event()

    async def callback(event: Event) -> None:
        await go.wait()
        await heard.put(event)

    bus.on(Event, callback)
    bus.publish(numbered(1))
    assert heard.empty()
    go.set()

    assert await soon(heard.get()) == numbered(1)


async def test_a_coroutine_callback_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What a task raises is not swallowed."""
    bus = EventBus()

    async def broken(event: Event) -> None:
        raise RuntimeError("the user's mistake")

    bus.on(Event, broken)
    bus.publish(numbered(1))
    await turns()

    assert "the user's mistake" in caplog.text


async def test_an_iterator_that_is_not_read_is_bounded_and_told() -> None:
    """The oldest events go, and the reader first hears how many."""
    bus = EventBus()
    events = bus.events()
    for number in range(MAX_UNREAD + 7):
        bus.publish(exited(number))

    heard = await read(events, MAX_UNREAD + 1)

    assert heard[0] == EventsMissed(7)
    assert heard[1:] == [exited(number) for number in range(7, MAX_UNREAD + 7)]


async def test_missed_events_are_counted_anew_each_time() -> None:
    """A count tells of what was missed since the last one."""
    bus = EventBus()
    events = bus.events()
    for _ in range(2):
        for number in range(MAX_UNREAD + 1):
            bus.publish(exited(number))
        assert (await read(events, MAX_UNREAD + 1))[0] == EventsMissed(1)


async def test_messages_are_never_dropped() -> None:
    """Their senders' windows bound them: an unread iterator loses other events, no message."""
    bus = EventBus()
    events = bus.events()
    for number in range(MAX_UNREAD + 7):
        bus.publish(numbered(number))
    bus.publish(exited(1))

    heard = await read(events, MAX_UNREAD + 8)

    assert heard == [*(numbered(number) for number in range(MAX_UNREAD + 7)), exited(1)]


async def test_an_iterator_made_after_the_end_ends_at_once() -> None:
    """Who asks a closed bus for events does not wait for ever."""
    bus = EventBus()
    bus.close()
    assert [event async for event in bus.events()] == []


async def test_an_unread_iterator_congests_the_bus_until_it_is_read() -> None:
    """Relief is called once, as soon as the reader has caught up enough."""
    bus, relieved = EventBus(), list[int]()
    events = bus.events()
    for number in range(CONGESTED_UNREAD):
        bus.publish(numbered(number))
    assert not bus.congested
    bus.publish(numbered(CONGESTED_UNREAD))
    assert bus.congested
    bus.when_relieved(lambda: relieved.append(1))

    await read(events, 5)

    assert not bus.congested
    assert relieved == [1]


async def test_an_iterator_that_is_left_congests_nobody() -> None:
    """Who stops reading while there is much unread relieves the bus."""
    bus, relieved = EventBus(), list[int]()
    events = cast(AsyncGenerator[Event | EventsMissed, None], bus.events())
    bus.publish(numbered(0))
    await read(events, 1)
    for number in range(2 * CONGESTED_UNREAD):
        bus.publish(numbered(number))
    bus.when_relieved(lambda: relieved.append(1))

    await events.aclose()

    assert not bus.congested
    assert relieved == [1]


async def test_an_iterator_that_is_dropped_unread_congests_nobody() -> None:
    """Who asked for events and never read one holds up no worker."""
    bus, relieved = EventBus(), list[int]()
    events = bus.events()
    for number in range(2 * CONGESTED_UNREAD):
        bus.publish(numbered(number))
    bus.when_relieved(lambda: relieved.append(1))

    del events
    gc.collect()

    assert not bus.congested
    assert relieved == [1]


async def test_one_slow_reader_among_quick_ones_keeps_the_bus_congested() -> None:
    """Relief waits for the slowest."""
    bus, relieved = EventBus(), list[int]()
    quick, slow = bus.events(), bus.events()
    for number in range(CONGESTED_UNREAD + 5):
        bus.publish(numbered(number))
    bus.when_relieved(lambda: relieved.append(1))

    await read(quick, 50)
    assert relieved == []
    await read(slow, 50)
    assert relieved == [1]


async def test_closing_ends_each_iterator_after_what_it_has() -> None:
    """Nothing that was published is lost by the end; to close twice is harmless."""
    bus = EventBus()
    full, empty = bus.events(), bus.events()
    bus.publish(numbered(1))
    await read(empty, 1)
    bus.close()
    bus.close()
    bus.publish(numbered(2))

    assert [event async for event in full] == [numbered(1)]
    assert [event async for event in empty] == []


async def test_closing_wakes_who_waits() -> None:
    """No reader hangs on a bus that has closed."""
    bus = EventBus()
    waiting = asyncio.ensure_future(anext(bus.events()))
    await turns()

    bus.close()

    with contextlib.suppress(StopAsyncIteration):
        await soon(waiting)
    assert isinstance(waiting.exception(), StopAsyncIteration)


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiocluster")


# ---- mistakes of the user's


@pytest.mark.parametrize("kind", ["WorkerExited", None, int, 42, WorkerExited | WorkerForked])
def test_what_is_no_event_is_refused_when_it_is_asked_for(kind: Any) -> None:
    """Node's way to name an event, most of all; at the first event it would be too late."""
    with pytest.raises(ConfigError, match="is not an event; give a class, such as aiocluster"):
        EventBus().on(kind, lambda event: None)


def test_what_cannot_be_called_is_refused() -> None:
    """A call of the function instead of the function, say."""
    with pytest.raises(ConfigError, match="None is not a function that takes the event"):
        EventBus().on(WorkerExited, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ValueError("mine")])
@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_whatever_a_callback_raises_is_logged_and_stays_here(
    caplog: pytest.LogCaptureFixture, error: BaseException, kind: str
) -> None:
    """An exit, too: the loop would let it through and leave everything behind."""
    bus, heard = EventBus(), list[Event]()

    def fail(event: Event) -> None:
        raise error

    async def fail_later(event: Event) -> None:
        raise error

    bus.on(Event, fail if kind == "function" else fail_later)
    bus.on(Event, heard.append)
    bus.publish(event(1))
    await turns()

    assert heard == [event(1)]
    assert "a callback for WorkerForked raised" in caplog.text


# ---- what nobody keeps


async def test_a_reader_that_nobody_keeps_a_reference_to_goes_on() -> None:
    """`create_task(log(cluster))` is how everybody starts one."""
    bus, heard = EventBus(), list[object]()

    async def read() -> None:
        async for one in bus.events():
            heard.append(one)

    asyncio.get_running_loop().create_task(read())
    await turns()
    gc.collect()
    bus.publish(event(1))
    await turns()

    assert heard == [event(1)]
    bus.close()
    await turns()


async def test_callbacks_that_do_not_end_hold_messages_back() -> None:
    """As an iterator does that is not read: memory has an end."""
    bus, release = EventBus(), asyncio.Event()

    async def wait(event: Event) -> None:
        await release.wait()

    bus.on(Event, wait)
    for number in range(CONGESTED_UNREAD + 1):
        bus.publish(event(number))
    relieved = asyncio.Event()
    bus.when_relieved(relieved.set)
    assert bus.congested

    release.set()

    await soon(relieved.wait())
    assert not bus.congested


async def test_callbacks_that_run_end_with_the_bus() -> None:
    """Nothing of the cluster's runs on when it has stopped."""
    bus, cancelled = EventBus(), asyncio.Event()

    async def wait(event: Event) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    bus.on(Event, wait)
    bus.publish(event(1))
    await turns()

    bus.close()

    await soon(cancelled.wait())


# ---- from one program to the next


async def test_what_is_published_too_early_is_kept() -> None:
    """Whoever asks before the release hears all of it, in its order."""
    bus = EventBus()
    heard: list[Event] = []
    bus.hold()
    bus.publish(numbered(1))
    events = bus.events()
    bus.on(WorkerMessage, heard.append)
    bus.publish(numbered(2))
    assert heard == []
    bus.release()
    bus.release()
    bus.publish(numbered(3))

    assert heard == [numbered(1), numbered(2), numbered(3)]
    assert [await soon(anext(events)) for _ in range(3)] == heard
    bus.close()


async def test_much_that_is_kept_makes_workers_wait() -> None:
    """Until it is released."""
    bus = EventBus()
    relieved: list[bool] = []
    bus.hold()
    for number in range(CONGESTED_UNREAD + 1):
        bus.publish(numbered(number))
    assert bus.congested
    bus.when_relieved(lambda: relieved.append(True))
    bus.release()
    assert not bus.congested
    assert relieved == [True]


async def test_messages_that_the_slowest_has_not_read_are_unread() -> None:
    """Other events are not handed on: the next program's subscribers are others."""
    bus = EventBus()
    slow, quick = bus.events(), bus.events()
    assert bus.is_idle
    for event in (WorkerForked(WORKER), numbered(1), numbered(2)):
        bus.publish(event)
    for _ in range(3):
        await soon(anext(quick))
    assert bus.unread == [numbered(1), numbered(2)]
    assert not bus.is_idle
    for _ in range(3):
        await soon(anext(slow))
    assert bus.is_idle
    bus.close()


async def test_while_a_callback_runs_it_is_not_idle() -> None:
    """An exec would end it."""
    bus, may_end = EventBus(), asyncio.Event()

    async def callback(event: Event) -> None:
        await may_end.wait()

    bus.on(WorkerMessage, callback)
    bus.publish(numbered(1))
    assert not bus.is_idle
    may_end.set()
    await turns()
    assert bus.is_idle
