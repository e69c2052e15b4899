"""The phases of a worker."""

import itertools

import pytest

from aiocluster.errors import ProtocolError
from aiocluster.primary.workers.phases import TRANSITIONS, Phase, Signal, advance

# Written out once more: the table is what is promised, and a change of it a change of this.
ROWS = {
    (Phase.STARTING, Signal.ONLINE): Phase.ONLINE,
    (Phase.STARTING, Signal.DRAIN): Phase.DRAINING,
    (Phase.STARTING, Signal.EXIT): Phase.EXITED,
    (Phase.ONLINE, Signal.READY): Phase.READY,
    (Phase.ONLINE, Signal.DRAIN): Phase.DRAINING,
    (Phase.ONLINE, Signal.EXIT): Phase.EXITED,
    (Phase.READY, Signal.DRAIN): Phase.DRAINING,
    (Phase.READY, Signal.EXIT): Phase.EXITED,
    (Phase.DRAINING, Signal.ONLINE): Phase.DRAINING,
    (Phase.DRAINING, Signal.READY): Phase.DRAINING,
    (Phase.DRAINING, Signal.DRAIN): Phase.DRAINING,
    (Phase.DRAINING, Signal.EXIT): Phase.EXITED,
}
ALL = set(itertools.product(Phase, Signal))


@pytest.mark.parametrize(("phase", "signal"), ROWS)
def test_every_row_of_the_table_moves_the_worker(phase: Phase, signal: Signal) -> None:
    """What may happen leads where it should."""
    assert advance(phase, signal) is ROWS[phase, signal]


@pytest.mark.parametrize(("phase", "signal"), sorted(ALL - ROWS.keys()))
def test_everything_else_is_refused(phase: Phase, signal: Signal) -> None:
    """What is not in the table is the worker's fault, and named."""
    with pytest.raises(ProtocolError, match=f"{phase} cannot become {signal}"):
        advance(phase, signal)


def test_every_phase_has_a_row() -> None:
    """A new phase must be given its transitions."""
    assert set(TRANSITIONS) == set(Phase)


def test_a_worker_in_any_phase_but_the_last_may_exit() -> None:
    """Anything may die at any time."""
    assert all(Signal.EXIT in TRANSITIONS[phase] for phase in Phase if phase is not Phase.EXITED)
