"""How a process ended."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: its exit code, or the signal that killed it, or neither is known."""

    code: int | None
    signal: int | None
