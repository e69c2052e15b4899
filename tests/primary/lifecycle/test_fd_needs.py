"""How many descriptors a cluster needs, and what is said where there are fewer."""

import gc
import os

import pytest

from aiocluster.primary.lifecycle.fd_needs import RoleNeeds, fds_needed, too_few_fds
from tests.support.cluster import serving

WEB = RoleNeeds(workers=2, listeners=1)


def test_each_worker_role_and_listener_takes_some() -> None:
    """And there is always room for one worker more, and for a few connections."""
    two = fds_needed([WEB], open_fds=3)
    assert two == 39
    assert fds_needed([RoleNeeds(8, 1)], open_fds=3) == two + 6 * 5
    assert fds_needed([RoleNeeds(2, 3)], open_fds=3) == two + 2
    assert fds_needed([WEB, RoleNeeds(1, 0)], open_fds=3) == two + 3 + 5
    assert fds_needed([WEB], open_fds=20, loop_fds=0) == two + 17 - 9


@pytest.mark.parametrize("workers", [1, 4])
async def test_it_is_what_a_cluster_really_has(workers: int) -> None:
    """At rest it has all but what is kept in reserve."""
    gc.collect()  # what earlier tests have left would be closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    needed = fds_needed([RoleNeeds(workers, 1)], before, loop_fds=0)
    async with serving(workers=workers):
        used = len(os.listdir("/proc/self/fd"))
    assert needed - 10 - 4 <= used <= needed - 10 + 2


def test_too_few_are_told_with_the_numbers() -> None:
    """And with both ways out."""
    assert too_few_fds([WEB], limit=39, needed=39) == ""
    text = too_few_fds([WEB, RoleNeeds(3, 0)], limit=28, needed=57)
    assert text.startswith("the limit of open files is 28, and 5 workers need 57 at least, 5 each")
    assert "ulimit -n" in text
    assert "start fewer workers" in text
    assert "and 1 worker need 34" in too_few_fds([RoleNeeds(1, 1)], limit=8, needed=34)
