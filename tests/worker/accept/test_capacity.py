"""How much room a worker has, and who is told that there is more."""

import resource
from typing import Any

import pytest

from aiocluster.config.settings import settings_from
from aiocluster.ipc.accept_queue import reserved_fds
from aiocluster.ipc.scoreboard import (
    ACCEPTED,
    CONNECTIONS_CLOSED,
    CONNECTIONS_TAKEN,
    OTHER_FDS,
    REQUESTS_BEGUN,
    REQUESTS_DONE,
    ROOM_WANTED,
)
from aiocluster.worker.accept.capacity import AcceptCapacity


@pytest.fixture
def row() -> memoryview:
    """Of a worker with 3 connections, 2 requests and 10 descriptors of its own."""
    row = memoryview(bytearray(16 * 8)).cast("Q")
    row[CONNECTIONS_TAKEN], row[ACCEPTED], row[CONNECTIONS_CLOSED] = 4, 1, 2
    row[REQUESTS_BEGUN], row[REQUESTS_DONE] = 9, 7
    row[OTHER_FDS] = 10
    return row


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"max_connections": 10}, 7),
        ({"max_connections": 3}, 0),
        ({"max_requests_in_flight": 5}, 3),
        ({"max_requests_in_flight": 5, "max_connections": 4}, 1),
        ({"max_requests_in_flight": 2, "max_connections": 9}, 0),
    ],
)
def test_the_narrowest_limit_counts(row: memoryview, settings: dict[str, Any], count: int) -> None:
    """What it has is what it took from the primary and what it accepted, less what has ended."""
    assert AcceptCapacity(row, settings_from(settings)).count() == count


def test_descriptors_are_a_limit_always(row: memoryview) -> None:
    """Less those of its handlers, and some that they may still want."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert AcceptCapacity(row, settings_from({})).count() == limit - reserved_fds(limit) - 10 - 3


def test_in_a_stop_only_descriptors_are_a_limit(row: memoryview) -> None:
    """Who has connected would be reset else; the limits hold for requests as before."""
    room = AcceptCapacity(row, settings_from({"max_connections": 1, "max_requests_in_flight": 1}))
    room.forget_limits()
    assert room.count() == AcceptCapacity(row, settings_from({})).count()


@pytest.mark.parametrize(
    ("settings", "is_limited", "may_shrink"),
    [
        ({}, False, False),
        ({"max_connections": 5}, True, False),
        ({"max_requests_in_flight": 5}, True, True),
    ],
)
def test_requests_begin_on_connections_that_are_open(
    row: memoryview, settings: dict[str, Any], is_limited: bool, may_shrink: bool
) -> None:
    """Only with a limit on them there may be less room though nobody connected."""
    room = AcceptCapacity(row, settings_from(settings))

    assert (room.is_limited, room.may_shrink) == (is_limited, may_shrink)


@pytest.mark.parametrize("primary_waits", [False, True])
@pytest.mark.parametrize("is_awaited", [False, True])
def test_who_waits_is_told_of_an_end(
    row: memoryview, primary_waits: bool, is_awaited: bool
) -> None:
    """The primary by its flag, who accepts here by the other; nobody else."""
    told: list[str] = []
    room = AcceptCapacity(row, settings_from({}), lambda: told.append("primary"))
    room.on_room = lambda: told.append("here")
    row[ROOM_WANTED], room.is_awaited = primary_waits, is_awaited

    room.note_end()

    assert told == ["primary"] * primary_waits + ["here"] * is_awaited
