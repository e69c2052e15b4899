"""The number of CPUs that this process may use.

The scheduler's affinity is not enough: a container with `--cpus 1.5` on a machine of 64 CPUs
sees 64, and is throttled when it uses them. So the quotas of the process's cgroup and of every
cgroup above it count too: the smallest one holds.

A quota that cannot be read or understood is ignored: too many workers are better than no start.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from aiocluster.config.cgroups import Cgroup, own_cgroups


def available_cpus(root: Path = Path("/"), affinity: int | None = None) -> int:
    """Return how many CPUs this process may use: a whole number, at least 1.

    A quota is rounded up: half a CPU that no worker uses is lost, half a CPU that two workers
    share is not. Tests give `root`, a made-up file system, and `affinity`.
    """
    usable = len(os.sched_getaffinity(0)) if affinity is None else affinity
    smallest_quota = min(_quotas(root), default=math.inf)
    return max(1, math.ceil(min(usable, smallest_quota)))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota, in CPUs, of each cgroup that limits this process."""
    for cgroup in own_cgroups("cpu", root):
        yield from _quota_of(cgroup)


def _quota_of(cgroup: Cgroup) -> Iterator[float]:
    """Yield the quota of this one cgroup, if it has one."""
    if cgroup.version == 2:
        quota, _, period = cgroup.says("cpu.max").strip().partition(" ")
    else:
        quota = cgroup.says("cpu.cfs_quota_us").strip()
        period = cgroup.says("cpu.cfs_period_us").strip()
    # Without a quota the text is "max" in version 2 and "-1" in version 1: neither is digits only.
    if _is_positive(quota) and _is_positive(period):
        yield int(quota) / int(period)


def _is_positive(text: str) -> bool:
    # At most 18 digits, which fit in 64 bits as the kernel has them, and in a float.
    return re.fullmatch(r"[0-9]{1,18}", text) is not None and int(text) > 0
