"""The phases of a worker."""

import itertools

import pytest

from aiocluster.errors import ProtocolError
from aiocluster.primary.workers.phases import TRANSITIONS, Phase, Trigger, advance

# Written out once more: the table is what is promised, and a change of it a change of this.
ROWS = {
    (Phase.STARTING, Trigger.ONLINE): Phase.ONLINE,
    (Phase.STARTING, Trigger.DRAIN): Phase.DRAINING,
    (Phase.STARTING, Trigger.EXIT): Phase.EXITED,
    (Phase.ONLINE, Trigger.READY): Phase.READY,
    (Phase.ONLINE, Trigger.DRAIN): Phase.DRAINING,
    (Phase.ONLINE, Trigger.EXIT): Phase.EXITED,
    (Phase.READY, Trigger.DRAIN): Phase.DRAINING,
    (Phase.READY, Trigger.EXIT): Phase.EXITED,
    (Phase.DRAINING, Trigger.ONLINE): Phase.DRAINING,
    (Phase.DRAINING, Trigger.READY): Phase.DRAINING,
    (Phase.DRAINING, Trigger.DRAIN): Phase.DRAINING,
    (Phase.DRAINING, Trigger.EXIT): Phase.EXITED,
}
ALL = set(itertools.product(Phase, Trigger))


@pytest.mark.parametrize(("phase", "signal"), ROWS)
def test_every_row_of_the_table_moves_the_worker(phase: Phase, signal: Trigger) -> None:
    """What may happen leads where it should."""
    assert advance(phase, signal) is ROWS[phase, signal]


@pytest.mark.parametrize(("phase", "signal"), sorted(ALL - ROWS.keys()))
def test_everything_else_is_refused(phase: Phase, signal: Trigger) -> None:
    """What is not in the table is the worker's fault, and named."""
    with pytest.raises(ProtocolError, match=f"{phase} cannot become {signal}"):
        advance(phase, signal)


def test_every_phase_has_a_row() -> None:
    """A new phase must be given its transitions."""
    assert set(TRANSITIONS) == set(Phase)


def test_a_worker_in_any_phase_but_the_last_may_exit() -> None:
    """Anything may die at any time."""
    assert all(Trigger.EXIT in TRANSITIONS[phase] for phase in Phase if phase is not Phase.EXITED)
