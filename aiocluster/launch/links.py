"""Paths that lead through a symbolic link which a deploy turns: `current`, now `releases/7`.

A process knows the folder that it is in by its real path alone, and by that it would find the old
release for ever. Whatever lies below such a folder is looked for through the link again.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple


class FolderLink(NamedTuple):
    """A folder by its real path, and by one that leads there through a link."""

    real: str
    through: str


def link_of(real: str, through: str) -> FolderLink | None:
    """Return the link by which two paths of one folder differ; None when they do not."""
    ours, theirs = real.rstrip("/").split("/"), through.rstrip("/").split("/")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop(), theirs.pop()
    if not any(ours) or not any(theirs):
        return None  # the same path, or a link to the root, below which is everything
    return FolderLink("/".join(ours), "/".join(theirs))


def through(path: str, links: Iterable[FolderLink]) -> str:
    """Return `path`, or the same place by way of the link that it lies below."""
    return _below(path, links, lambda link: link.through)


def renewed(path: str, links: Iterable[FolderLink], resolve: Callable[[str], str]) -> str:
    """Return `path`, or where it is now that its link may have been turned: a real path again."""
    return _below(path, links, lambda link: resolve(link.through))


def _below(path: str, links: Iterable[FolderLink], beginning: Callable[[FolderLink], str]) -> str:
    # The longest first: a release may lie below another link.
    for link in sorted(links, key=lambda link: -len(link.real)):
        if path == link.real or path.startswith(link.real + "/"):
            return beginning(link) + path[len(link.real) :]
    return path
