"""The cgroups of this process, and the files in them.

Two versions of cgroups exist, and a hybrid system mounts both. Both are read, since only one of
them has the wanted controller. A file that cannot be read or understood counts as absent.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Cgroup(NamedTuple):
    """A cgroup that this process is in, or one above it."""

    version: int
    folder: Path

    def says(self, name: str) -> str:
        """Return the text of one of the cgroup's files; "" if it cannot be read."""
        return _read(self.folder / name)


def own_cgroups(controller: str, root: Path = Path("/")) -> Iterator[Cgroup]:
    """Yield the cgroups that may have this controller: for each mount, from its own one upwards.

    Tests give `root`, a made-up file system.
    """
    memberships = _memberships(_read(root / "proc/self/cgroup"), controller)
    for mount in _mounts(_read(root / "proc/self/mountinfo"), controller, root):
        if mount.version in memberships:
            for folder in _own_and_ancestors(mount, memberships[mount.version]):
                yield Cgroup(mount.version, folder)


class _Mount(NamedTuple):
    """A mount of a hierarchy of cgroups: `source`, one of its cgroups, appears at `target`."""

    version: int
    source: PurePosixPath
    target: Path


def _memberships(text: str, controller: str) -> dict[int, PurePosixPath]:
    """Return the cgroup of this process, for each version of cgroups, from /proc/self/cgroup.

    A line is `id:controllers:path`; with version 2, `controllers` is empty.
    """
    found: dict[int, PurePosixPath] = {}
    for line in text.splitlines():
        match line.split(":", 2):
            case ["0", "", path]:
                found[2] = PurePosixPath(path)
            case [_, controllers, path] if controller in controllers.split(","):
                found[1] = PurePosixPath(path)
    return found


def _mounts(text: str, controller: str, root: Path) -> Iterator[_Mount]:
    """Yield the mounts that may have the controller, from /proc/self/mountinfo.

    A line is `id parent device source target options [tags...] - type device options`.
    """
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        match before.split(), after.split():
            case [[_, _, _, source, target, *_], ["cgroup2", *_]]:
                yield _mount(2, source, target, root)
            case [[_, _, _, source, target, *_], ["cgroup", _, options]] if controller in (
                options.split(",")
            ):
                yield _mount(1, source, target, root)


def _mount(version: int, source: str, target: str, root: Path) -> _Mount:
    return _Mount(version, PurePosixPath(_unescaped(source)), root / _unescaped(target).lstrip("/"))


def _unescaped(text: str) -> str:
    """Return `text` without mountinfo's octal escapes of characters that would split a line."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _own_and_ancestors(mount: _Mount, cgroup: PurePosixPath) -> Iterator[Path]:
    """Yield the folder of `cgroup` and of each cgroup above it, as far as the mount shows them.

    In a container the path may be the host's and not exist here. Then the mount's root is the
    container's own cgroup.
    """
    folder = mount.target
    if cgroup.is_relative_to(mount.source) and ".." not in cgroup.parts:
        folder /= cgroup.relative_to(mount.source)
    if not os.path.isdir(folder):  # unlike Path.is_dir, also False if permission is missing
        folder = mount.target
    yield folder
    while folder != mount.target:
        folder = folder.parent
        yield folder


def _read(path: Path) -> str:
    """Return the text of a file; "" if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except (OSError, ValueError):  # ValueError: a path with a NUL in it
        return ""
