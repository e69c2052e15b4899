"""How many CPUs may this process use?

The scheduler's answer, the affinity, is not enough: a container with `--cpus 1.5` on a machine
of 64 sees 64, and is throttled when it uses them. So the cgroup's quota counts too, and that of
every cgroup above it, for the smallest one wins. Two versions of cgroups exist and a hybrid
system mounts both; each is asked, since only one of them has the CPU controller.

Whatever cannot be read or understood is no quota: too many workers are better than no start.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


def available_cpus(root: Path = Path("/"), affinity: int | None = None) -> int:
    """Return how many CPUs this process may use: a whole number, at least 1.

    A quota is rounded up: half a CPU that no worker uses is lost, half a CPU that two workers
    share is not. Tests give `root`, a made-up file system, and `affinity`.
    """
    usable = len(os.sched_getaffinity(0)) if affinity is None else affinity
    smallest_quota = min(_quotas(root), default=math.inf)
    return max(1, math.ceil(min(usable, smallest_quota)))


class _Mount(NamedTuple):
    """Where a hierarchy of cgroups is seen: `source`, one of its cgroups, appears at `target`."""

    version: int
    source: PurePosixPath
    target: Path


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota, in CPUs, of each cgroup that limits this process."""
    memberships = _memberships(_read(root / "proc/self/cgroup"))
    for mount in _mounts(_read(root / "proc/self/mountinfo"), root):
        if mount.version in memberships:
            for folder in _own_and_ancestors(mount, memberships[mount.version]):
                yield from _quota_in(folder, mount.version)


def _memberships(text: str) -> dict[int, PurePosixPath]:
    """Return the cgroup this process is in, for each version of cgroups, from /proc/self/cgroup.

    A line is `id:controllers:path`; version 2 has no controllers there.
    """
    found: dict[int, PurePosixPath] = {}
    for line in text.splitlines():
        match line.split(":", 2):
            case ["0", "", path]:
                found[2] = PurePosixPath(path)
            case [_, controllers, path] if "cpu" in controllers.split(","):
                found[1] = PurePosixPath(path)
    return found


def _mounts(text: str, root: Path) -> Iterator[_Mount]:
    """Yield the mounts that may hold a CPU quota, from /proc/self/mountinfo.

    A line is `id parent device source target options [tags...] - type device options`.
    """
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        match before.split(), after.split():
            case [[_, _, _, source, target, *_], ["cgroup2", *_]]:
                yield _mount(2, source, target, root)
            case [[_, _, _, source, target, *_], ["cgroup", _, options]] if "cpu" in (
                options.split(",")
            ):
                yield _mount(1, source, target, root)


def _mount(version: int, source: str, target: str, root: Path) -> _Mount:
    return _Mount(version, PurePosixPath(_unescaped(source)), root / _unescaped(target).lstrip("/"))


def _unescaped(text: str) -> str:
    """Undo mountinfo's octal escapes of the characters that would split a line."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _own_and_ancestors(mount: _Mount, cgroup: PurePosixPath) -> Iterator[Path]:
    """Yield the folder of `cgroup` and of each cgroup above it, as far as the mount shows them.

    In a container the path may be the host's and not exist here. Then the mount's root is the
    container's own cgroup.
    """
    folder = mount.target
    if cgroup.is_relative_to(mount.source) and ".." not in cgroup.parts:
        folder /= cgroup.relative_to(mount.source)
    if not os.path.isdir(folder):  # unlike Path.is_dir, False also where we may not look
        folder = mount.target
    yield folder
    while folder != mount.target:
        folder = folder.parent
        yield folder


def _quota_in(folder: Path, version: int) -> Iterator[float]:
    """Yield the quota set in this one cgroup, if there is one."""
    if version == 2:
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    else:
        quota = _read(folder / "cpu.cfs_quota_us").strip()
        period = _read(folder / "cpu.cfs_period_us").strip()
    # No quota is "max" in version 2 and "-1" in version 1: neither consists of digits.
    if _is_positive(quota) and _is_positive(period):
        yield int(quota) / int(period)


def _is_positive(text: str) -> bool:
    # At most 18 digits, which is 64 bits: what the kernel can mean, and a float can hold.
    return re.fullmatch(r"[0-9]{1,18}", text) is not None and int(text) > 0


def _read(path: Path) -> str:
    """Return the text of a file, "" when there is none that can be read."""
    try:
        return path.read_text(errors="replace")
    except (OSError, ValueError):  # ValueError: garbage made a path with a NUL in it
        return ""
