"""Signals that reach all processes of a cluster at once, but concern only the primary.

A terminal, a shell (`kill -TTIN %1`) and a service manager send them to whole process groups.
"""

import signal


def signals_of(*names: str) -> tuple[signal.Signals, ...]:
    """Return the signals of these names that the system has."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


# Signals that stop a process by default. The kernel sends them when a background process reads or
# writes at a terminal. If they are ignored, the read fails; with a handler it is tried for ever.
STOPPING = signals_of("SIGTTIN", "SIGTTOU")

# All such signals, including the ones that end a process by default.
FOR_THE_PRIMARY = (
    *signals_of("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGRTMIN"),
    *STOPPING,
)
