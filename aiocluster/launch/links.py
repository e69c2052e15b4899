"""Paths through a symbolic link that a deploy changes: `current`, which now is `releases/7`.

A process knows its current folder only by the real path, which would lead to the old release for
ever. So paths below such a folder are looked up through the link again.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple


class FolderLink(NamedTuple):
    """A folder by its real path, and by a path that leads there through a link."""

    real: str
    through: str


def link_of(real: str, through: str) -> FolderLink | None:
    """Return the link by which two paths of one folder differ; None if they do not differ."""
    ours, theirs = real.rstrip("/").split("/"), through.rstrip("/").split("/")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop(), theirs.pop()
    if not any(ours) or not any(theirs):
        return None  # the same path, or a link to the root
    return FolderLink("/".join(ours), "/".join(theirs))


def through(path: str, links: Iterable[FolderLink]) -> str:
    """Return `path`, or the path through the link if it lies below one."""
    return _below(path, links, lambda link: link.through)


def renewed(path: str, links: Iterable[FolderLink], resolve: Callable[[str], str]) -> str:
    """Return `path`, or its present real path if it lies below a link, which may have changed."""
    return _below(path, links, lambda link: resolve(link.through))


def _below(path: str, links: Iterable[FolderLink], beginning: Callable[[FolderLink], str]) -> str:
    # The longest link comes first: a release may lie below another link.
    for link in sorted(links, key=lambda link: -len(link.real)):
        if path == link.real or path.startswith(link.real + "/"):
            return beginning(link) + path[len(link.real) :]
    return path
