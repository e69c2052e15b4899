"""The exit status of a process."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """The end of a process: its exit code, or the signal that killed it, or neither is known."""

    code: int | None
    signal: int | None
