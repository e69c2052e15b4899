"""The phases of a worker, and the triggers that move it from one to the next.

    STARTING ──online──▶ ONLINE ──ready──▶ READY ──drain──▶ DRAINING ──exit──▶ EXITED

A worker may be drained and may exit in any phase. No other transitions than the table's happen.
"""

from enum import StrEnum

from aiocluster.errors import ProtocolError


class Phase(StrEnum):
    """A phase in a worker's life."""

    STARTING = "starting"  # forked; its loop does not run yet
    ONLINE = "online"  # its loop runs; its app is starting
    READY = "ready"  # its app serves: it may get connections
    DRAINING = "draining"  # finishes what is open, gets nothing new
    EXITED = "exited"


class Trigger(StrEnum):
    """An event that moves a worker to its next phase."""

    ONLINE = "online"
    READY = "ready"
    DRAIN = "drain"
    EXIT = "exit"


TRANSITIONS: dict[Phase, dict[Trigger, Phase]] = {
    Phase.STARTING: {
        Trigger.ONLINE: Phase.ONLINE,
        Trigger.DRAIN: Phase.DRAINING,  # stopped before its loop ran
        Trigger.EXIT: Phase.EXITED,
    },
    Phase.ONLINE: {
        Trigger.READY: Phase.READY,
        Trigger.DRAIN: Phase.DRAINING,
        Trigger.EXIT: Phase.EXITED,
    },
    Phase.READY: {Trigger.DRAIN: Phase.DRAINING, Trigger.EXIT: Phase.EXITED},
    Phase.DRAINING: {
        # A worker may have sent these before it read the Drain.
        Trigger.ONLINE: Phase.DRAINING,
        Trigger.READY: Phase.DRAINING,
        Trigger.DRAIN: Phase.DRAINING,
        Trigger.EXIT: Phase.EXITED,
    },
    Phase.EXITED: {},
}


def advance(phase: Phase, signal: Trigger) -> Phase:
    """Return the phase after `signal`; ProtocolError if it cannot happen in `phase`."""
    try:
        return TRANSITIONS[phase][signal]
    except KeyError:
        raise ProtocolError(f"a worker that is {phase} cannot become {signal}") from None
