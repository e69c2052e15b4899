"""The phases of a worker, and what moves it from one to the next.

    STARTING ──online──▶ ONLINE ──ready──▶ READY ──drain──▶ DRAINING ──exit──▶ EXITED

A worker may be drained and may exit in any phase. What is not in the table cannot happen.
"""

from enum import StrEnum

from aiocluster.errors import ProtocolError


class Phase(StrEnum):
    """Where a worker is in its life."""

    STARTING = "starting"  # forked; its loop does not run yet
    ONLINE = "online"  # its loop runs; its app is starting
    READY = "ready"  # its app serves: it may be given connections
    DRAINING = "draining"  # finishes what is open, gets nothing new
    EXITED = "exited"


class Signal(StrEnum):
    """What happens to a worker."""

    ONLINE = "online"
    READY = "ready"
    DRAIN = "drain"
    EXIT = "exit"


TRANSITIONS: dict[Phase, dict[Signal, Phase]] = {
    Phase.STARTING: {
        Signal.ONLINE: Phase.ONLINE,
        Signal.DRAIN: Phase.DRAINING,  # stopped before it ever ran
        Signal.EXIT: Phase.EXITED,
    },
    Phase.ONLINE: {
        Signal.READY: Phase.READY,
        Signal.DRAIN: Phase.DRAINING,
        Signal.EXIT: Phase.EXITED,
    },
    Phase.READY: {Signal.DRAIN: Phase.DRAINING, Signal.EXIT: Phase.EXITED},
    Phase.DRAINING: {
        # What it sent before it read the Drain.
        Signal.ONLINE: Phase.DRAINING,
        Signal.READY: Phase.DRAINING,
        Signal.DRAIN: Phase.DRAINING,
        Signal.EXIT: Phase.EXITED,
    },
    Phase.EXITED: {},
}


def advance(phase: Phase, signal: Signal) -> Phase:
    """Return the phase after `signal`; ProtocolError when it cannot happen in `phase`."""
    try:
        return TRANSITIONS[phase][signal]
    except KeyError:
        raise ProtocolError(f"a worker that is {phase} cannot become {signal}") from None
