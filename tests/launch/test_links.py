"""Folders behind a link: found by it again, and where it leads now."""

import pytest

from aiocluster.launch.links import FolderLink, link_of, renewed, through

CURRENT = FolderLink("/srv/releases/7", "/srv/current")
NESTED = FolderLink("/srv/releases/7/vendor/2", "/srv/vendor")


@pytest.mark.parametrize(
    ("real", "by_link", "link"),
    [
        ("/srv/releases/7", "/srv/current", CURRENT),
        ("/srv/releases/7/", "/srv/current/", CURRENT),
        ("/srv/releases/7/venv/bin", "/srv/current/venv/bin", CURRENT),
        ("/srv/releases/7/app", "/srv/current/app/", CURRENT),
        ("/srv/7", "/current", FolderLink("/srv/7", "/current")),
        ("/srv/app", "/srv/app", None),
        ("/", "/", None),
        ("/srv/app", "/link/srv/app", None),  # a link to the root itself
        ("/mnt/srv/app", "/srv/app", None),
    ],
)
def test_a_link_is_where_two_paths_of_a_folder_part(
    real: str, by_link: str, link: FolderLink | None
) -> None:
    """What they have in common at the end lies below the link."""
    assert link_of(real, by_link) == link


@pytest.mark.parametrize(
    ("path", "by_link", "now"),
    [
        ("/srv/releases/7", "/srv/current", "/new/current"),
        ("/srv/releases/7/lib/x", "/srv/current/lib/x", "/new/current/lib/x"),
        ("/srv/releases/7/vendor/2/x", "/srv/vendor/x", "/new/vendor/x"),
        ("/srv/releases/70", "/srv/releases/70", "/srv/releases/70"),
        ("/usr/lib/python3.11", "/usr/lib/python3.11", "/usr/lib/python3.11"),
        ("", "", ""),
    ],
)
def test_what_lies_below_a_link_is_found_through_it(path: str, by_link: str, now: str) -> None:
    """The longest that fits; all else is left as it is."""

    def resolve(link: str) -> str:
        return link.replace("/srv", "/new")

    for links in ([CURRENT, NESTED], [NESTED, CURRENT]):
        assert through(path, links) == by_link
        assert renewed(path, links, resolve) == now
