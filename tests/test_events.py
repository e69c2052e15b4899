"""What a subscriber may hear."""

import dataclasses
import inspect
from typing import Any

import pytest

import aiocluster
from aiocluster import events
from aiocluster.events import Event, EventsMissed, WorkerExited, WorkerForked, WorkerMessage


class SomeWorker:
    """As much of a worker as an event tells."""

    id, slot, role, generation, pid = 1, 0, "web", 1, 4711

    async def send(self, message: Any) -> None:
        raise NotImplementedError


def test_every_event_is_public_and_explained() -> None:
    """Whatever a subscriber may hear it can name."""
    for name, kind in inspect.getmembers(events, dataclasses.is_dataclass):
        assert getattr(aiocluster, name) is kind
        assert kind.__doc__


def test_every_event_but_one_tells_of_a_worker() -> None:
    """`on(Event)` hears all; what a subscriber missed is told to that subscriber alone."""
    named = inspect.getmembers(events, inspect.isclass)
    kinds = {kind for _, kind in named if dataclasses.is_dataclass(kind)}

    assert {kind for kind in kinds if not issubclass(kind, Event)} == {EventsMissed}


def test_an_event_cannot_be_changed() -> None:
    """One subscriber takes nothing from another."""
    event = WorkerForked(SomeWorker())

    with pytest.raises(dataclasses.FrozenInstanceError):
        event.worker = SomeWorker()  # type: ignore[misc]


def test_events_are_equal_by_what_they_tell() -> None:
    """So a test, or a set, can tell them apart."""
    worker = SomeWorker()

    assert WorkerMessage(worker, [1]) == WorkerMessage(worker, [1])
    assert WorkerMessage(worker, 1) != WorkerMessage(SomeWorker(), 1)
    assert WorkerExited(worker, 0, None, True, "drain") != WorkerExited(
        worker, 0, None, True, "stop"
    )
