"""Signals that reach all processes of a cluster at once, and are for the primary alone.

A terminal, a shell (`kill -TTIN %1`) and a service manager send them to whole process groups.
"""

import signal

# What stops a process by default, and the kernel sends for reading or writing at a terminal in
# the background. Ignored, such a read fails instead; a handler would have it tried for ever.
STOPPING = (signal.SIGTTIN, signal.SIGTTOU)

# All of them: those that end a process by default, too.
FOR_THE_PRIMARY = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGRTMIN,
    *STOPPING,
)
