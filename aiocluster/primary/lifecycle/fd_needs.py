"""Computes how many descriptors a cluster needs to serve. With fewer it must not start."""

from collections.abc import Iterable
from typing import NamedTuple

# The primary's: three eventfds or the like and two pipes of a loop, and where signals arrive (9);
# the scoreboard and its map, and a spare, closed to accept when no other is free (3).
LOOP_FDS = 9
_PRIMARY_FDS = 3

# Each role's: a zygote's socket and pidfd, and the file from which the next one is started.
_ROLE_FDS = 3

# Each worker's: both ends of its handoff, its channel, its pidfd and its file of stacks.
WORKER_FDS = 5

# For one more worker, beside the one that it replaces, with a new zygote; and to accept a few
# connections and hand them on.
_RESERVE = 10


class RoleNeeds(NamedTuple):
    """The numbers of workers and of listening sockets of a role."""

    workers: int
    listeners: int


def fds_needed(roles: Iterable[RoleNeeds], open_fds: int, loop_fds: int = LOOP_FDS) -> int:
    """Return how many descriptors the primary needs; its workers need fewer.

    `open_fds` are open already, `loop_fds` belong to a loop that is still to be made.
    """
    own = sum(_ROLE_FDS + role.listeners + WORKER_FDS * role.workers for role in roles)
    return open_fds + loop_fds + _PRIMARY_FDS + own + _RESERVE


def too_few_fds(roles: list[RoleNeeds], limit: int, needed: int) -> str:
    """Return why a cluster cannot serve with this limit of open files; "" if it can."""
    if needed <= limit:
        return ""
    workers = sum(role.workers for role in roles)
    return (
        f"the limit of open files is {limit}, and {workers} worker{'' if workers == 1 else 's'}"
        f" need {needed} at least, {WORKER_FDS} each: raise it (ulimit -n, systemd's LimitNOFILE),"
        " or start fewer workers"
    )
