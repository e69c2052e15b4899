from random import Random

import pytest

from aiocluster.ipc.scoreboard import (
    ACCEPTED,
    CONNECTIONS_CLOSED,
    CONNECTIONS_TAKEN,
    HEARTBEAT,
    REQUESTS_BEGUN,
    REQUESTS_DONE,
    private_row,
)
from aiocluster.metrics.snapshot import Counters
from aiocluster.primary.workers.scoreboard_check import contradiction, has_grown

SECOND = 10**9
NOW = 5000 * SECOND
LARGEST = 2**64 - 1


def row(**fields: int) -> list[int]:
    """Return a row in which all is well, but for these fields."""
    figures = private_row().tolist()
    figures[HEARTBEAT] = NOW
    figures[CONNECTIONS_TAKEN], figures[ACCEPTED], figures[CONNECTIONS_CLOSED] = 50, 20, 60
    figures[REQUESTS_BEGUN], figures[REQUESTS_DONE] = 900, 899
    for name, value in fields.items():
        figures[FIELDS[name]] = value
    return figures


FIELDS = {
    "beat": HEARTBEAT,
    "taken": CONNECTIONS_TAKEN,
    "accepted": ACCEPTED,
    "closed": CONNECTIONS_CLOSED,
    "begun": REQUESTS_BEGUN,
    "done": REQUESTS_DONE,
}


def test_a_worker_that_counts_well_is_believed() -> None:
    """One that has stopped its heart, too, and one that has done nothing yet."""
    for figures in (row(), row(beat=0), row(beat=NOW + 1), private_row().tolist()):
        assert contradiction(figures, figures, figures, 60, NOW) == ""


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ({"beat": LARGEST}, "heartbeat lies in the future"),
        ({"beat": NOW + 2 * SECOND}, "heartbeat lies in the future"),
        ({"taken": LARGEST}, "more than there can be"),
        ({"begun": 2**60}, "more than there can be"),
        ({"accepted": LARGEST}, "more than there can be"),
        ({"taken": 2000}, "taken 2000 connections, and was given 60"),
        ({"closed": LARGEST}, "and had 70"),
        ({"closed": 5000}, "closed 5000 connections, and had 70"),
        ({"done": 5000}, "done 5000 requests, and begun 900"),
    ],
)
def test_figures_that_contradict_each_other_are_found(spoilt: dict[str, int], why: str) -> None:
    """Each by itself: some are put right by the worker's next beat."""
    figures = row(**spoilt)

    assert why in contradiction(figures, figures, figures, 60, NOW)


def test_a_worker_that_counts_while_it_is_read_is_believed() -> None:
    """What it ends between the two looks it had begun before it was read again."""
    assert (
        contradiction(
            row(), row(), row(taken=10**6, closed=10**6, done=10**7, begun=10**7), 10**6, NOW
        )
        == ""
    )


@pytest.mark.parametrize("name", ["taken", "accepted", "closed", "begun", "done"])
def test_counts_that_have_fallen_are_found(name: str) -> None:
    """A pointer that has run wild may write zeroes, which contradict only what was there before."""
    known, fallen = row(), row(**{name: row()[FIELDS[name]] - 1})

    assert " fell from " in contradiction(known, fallen, fallen, 60, NOW)
    zeroes = private_row().tolist()
    assert " fell from " in contradiction(known, zeroes, zeroes, 60, NOW)


def test_a_row_of_one_byte_all_over_is_found() -> None:
    """Whatever a pointer that has run wild fills it with, but for zeroes."""
    chance = Random(11)
    for byte in range(1, 256):
        figures = [int.from_bytes(bytes([byte] * 8), "little")] * len(row())
        assert contradiction(figures, figures, figures, 60, NOW)
    for _ in range(1000):
        figures = [chance.getrandbits(64) for _ in row()]
        assert contradiction(figures, figures, figures, 60, NOW)


def test_counters_only_grow() -> None:
    """What was done is not undone; open connections come and go."""
    before = Counters(connections_open=5, connections_total=7, requests_begun=3)

    assert has_grown(before, before)
    assert has_grown(before, Counters(connections_total=8, requests_begun=3))
    assert not has_grown(before, Counters(connections_total=6, requests_begun=3))
    assert not has_grown(before, Counters())
    assert not has_grown(before, Counters(connections_total=7, requests_begun=2**60))
