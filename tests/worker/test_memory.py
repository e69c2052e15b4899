"""What the garbage collector sees of a worker's memory."""

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from aiocluster.config.settings import settings_from
from aiocluster.ipc.scoreboard import ACCEPTED, CONNECTIONS_CLOSED, CONNECTIONS_TAKEN
from aiocluster.worker.memory import _MANY, _NEW_FOR, Memory


class Thing:
    """An object that the collector can see, and that may be in a cycle."""

    def __init__(self) -> None:
        self.other: object = None


def cycle() -> "weakref.ref[Thing]":
    """Make garbage that only the collector can free."""
    one = Thing()
    one.other = one
    return weakref.ref(one)


def sees(thing: object) -> bool:
    return any(one is thing for one in gc.get_objects())


@pytest.fixture(autouse=True)
def _the_collector_stays_as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    gc.set_threshold(10**6)  # on, and not by itself within a test
    yield
    gc.unfreeze()
    gc.enable()
    gc.set_threshold(*threshold)


@pytest.fixture
def row() -> memoryview:
    return memoryview(bytearray(16 * 8)).cast("Q")


@pytest.fixture
def memory(row: memoryview) -> Memory:
    """Of a worker whose app has started at 100 s."""
    memory = Memory(row, settings_from({"min_uptime": 5.0}))
    memory.settle_app(100.0)
    return memory


def test_what_the_app_has_made_at_its_start_is_out_of_sight(row: memoryview) -> None:
    """But its garbage is freed before."""
    made, garbage = Thing(), cycle()

    Memory(row, settings_from({})).settle_app(100.0)

    assert garbage() is None
    assert not sees(made)


def test_many_connections_of_a_new_worker_are_put_out_of_sight(
    memory: Memory, row: memoryview
) -> None:
    """Each time that there are as many more; what is garbage then is freed."""
    row[CONNECTIONS_TAKEN], row[ACCEPTED], row[CONNECTIONS_CLOSED] = _MANY, 3, 4
    first, second = Thing(), Thing()
    memory.settle_connections(100.1)
    assert sees(first)  # one connection fewer than many

    row[ACCEPTED] += 1
    garbage = cycle()
    memory.settle_connections(100.2)
    assert not sees(first)
    assert garbage() is None

    second = Thing()
    row[CONNECTIONS_TAKEN] += _MANY - 1
    memory.settle_connections(100.3)
    assert sees(second)
    row[CONNECTIONS_TAKEN] += 1
    memory.settle_connections(100.4)
    assert not sees(second)


def test_connections_that_go_and_come_are_no_reason(memory: Memory, row: memoryview) -> None:
    """So it is done a few times in a worker's life, whatever its clients do."""
    row[CONNECTIONS_TAKEN] = _MANY
    memory.settle_connections(100.1)
    thing = Thing()
    for _ in range(5):
        row[CONNECTIONS_CLOSED] += _MANY
        memory.settle_connections(100.2)
        row[CONNECTIONS_TAKEN] += _MANY
        memory.settle_connections(100.3)

    assert sees(thing)


def test_a_worker_is_new_for_a_while_after_it_can_get_the_first(
    memory: Memory, row: memoryview
) -> None:
    """Later the app may have much more that would be kept, and that takes long to visit."""
    row[CONNECTIONS_TAKEN] = _MANY
    new, later = Thing(), Thing()
    memory.settle_connections(100.0 + 5.0 + _NEW_FOR - 0.1)
    assert not sees(new)

    later = Thing()
    row[CONNECTIONS_TAKEN] = 2 * _MANY
    memory.settle_connections(100.0 + 5.0 + _NEW_FOR)
    assert sees(later)

    memory.settle_app(200.0)  # it is ready only now
    row[CONNECTIONS_TAKEN] = 3 * _MANY
    last = Thing()
    memory.settle_connections(200.1)
    assert not sees(last)


def test_a_worker_that_ends_has_nothing_in_sight(memory: Memory) -> None:
    """Nor is that visited once more."""
    garbage, thing = cycle(), Thing()

    memory.settle_end()

    assert not sees(thing)
    assert garbage() is not None
    assert gc.collect() == 0
    new = cycle()
    gc.collect()
    assert new() is None  # as before


@pytest.mark.parametrize("turn_off", [gc.disable, lambda: gc.set_threshold(0)])
def test_an_app_that_has_turned_the_collector_off_is_left_alone(
    memory: Memory, row: memoryview, turn_off: Callable[[], None]
) -> None:
    """It has its reasons, and collects when it likes."""
    turn_off()
    before = gc.isenabled(), gc.get_threshold()
    thing, garbage = Thing(), cycle()
    row[CONNECTIONS_TAKEN] = _MANY
    memory.settle_app(100.0)
    memory.settle_connections(100.1)
    memory.settle_end()

    assert (gc.isenabled(), gc.get_threshold()) == before
    assert sees(thing)
    assert garbage() is not None


def test_the_collectors_settings_are_the_apps(memory: Memory, row: memoryview) -> None:
    """What it has set stays."""
    gc.set_threshold(300, 7, 9)
    row[CONNECTIONS_TAKEN] = _MANY
    memory.settle_connections(100.1)
    memory.settle_end()

    assert gc.isenabled()
    assert gc.get_threshold()[:2] == (300, 7)
