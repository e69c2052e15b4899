"""In which cgroups is this process, and what do they say?

Two versions of cgroups exist and a hybrid system mounts both; each is asked, since only one of
them has the controller that is wanted. Whatever cannot be read or understood says nothing.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


class Cgroup(NamedTuple):
    """One that this process is in, or one above it."""

    version: int
    folder: Path

    def says(self, name: str) -> str:
        """Return the text of one of its files, "" when there is none that can be read."""
        return _read(self.folder / name)


def own_cgroups(controller: str, root: Path = Path("/")) -> Iterator[Cgroup]:
    """Yield those that may have this controller, of each mount the own one first, then those above.

    Tests give `root`, a made-up file system.
    """
    memberships = _memberships(_read(root / "proc/self/cgroup"), controller)
    for mount in _mounts(_read(root / "proc/self/mountinfo"), controller, root):
        if mount.version in memberships:
            for folder in _own_and_ancestors(mount, memberships[mount.version]):
                yield Cgroup(mount.version, folder)


class _Mount(NamedTuple):
    """Where a hierarchy of cgroups is seen: `source`, one of its cgroups, appears at `target`."""

    version: int
    source: PurePosixPath
    target: Path


def _memberships(text: str, controller: str) -> dict[int, PurePosixPath]:
    """Return the cgroup this process is in, for each version of cgroups, from /proc/self/cgroup.

    A line is `id:controllers:path`; version 2 has no controllers there.
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


def _read(path: Path) -> str:
    """Return the text of a file, "" when there is none that can be read."""
    try:
        return path.read_text(errors="replace")
    except (OSError, ValueError):  # ValueError: garbage made a path with a NUL in it
        return ""
