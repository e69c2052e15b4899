"""Signals that reach all processes of a cluster at once, and are for the primary alone.

A terminal, a shell (`kill -TTIN %1`) and a service manager send them to whole process groups.
"""

import signal


def signals_of(*names: str) -> tuple[signal.Signals, ...]:
    """Return the signals that have these names, but for those that this system does not have."""
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


# What stops a process by default, and the kernel sends for reading or writing at a terminal in
# the background. Ignored, such a read fails instead; a handler would have it tried for ever.
STOPPING = signals_of("SIGTTIN", "SIGTTOU")

# All of them: those that end a process by default, too.
FOR_THE_PRIMARY = (
    *signals_of("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGRTMIN"),
    *STOPPING,
)
