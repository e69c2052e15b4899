"""What is put down to the kernel's out-of-memory killer, with made-up counts and times."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiocluster.config.cgroups import Cgroup
from aiocluster.primary.processes.oom_kills import OomKills, count_in


def kills(*counts: int | None) -> OomKills:
    """One that reads these counts, one after the other; the first one at once."""
    left: Iterator[int | None] = iter(counts)
    return OomKills(lambda: next(left))


def test_a_death_after_which_the_count_has_risen_is_the_kernels() -> None:
    """It counts before it kills."""
    assert kills(3, 4).claim(1000.0) is True


def test_another_death_is_not() -> None:
    """Whatever was killed long before: somebody else sent that signal."""
    assert kills(3, 3).claim(1000.0) is False


def test_as_many_deaths_are_the_kernels_as_it_counts() -> None:
    """Several may be killed at once; whoever is killed by hand soon after them is not one."""
    memory = kills(0, 2, 2, 2)
    assert [memory.claim(1000.0 + n / 10) for n in range(3)] == [True, True, False]


def test_a_kill_that_was_seen_before_is_not_put_down_to_a_later_death() -> None:
    """It was another process of the cgroup's."""
    memory = kills(0, 1, 1)
    memory.look(1000.0)

    assert memory.claim(1060.0) is False


def test_while_nobody_dies_it_is_read_once_a_second() -> None:
    """However many workers report."""
    read: list[int] = []

    def count() -> int:
        read.append(0)
        return 0

    memory = OomKills(count)
    for tenth in range(50):
        memory.look(1000.0 + tenth / 10)
    assert len(read) == 1 + 5


@pytest.mark.parametrize("counts", [(None, None), (3, None)])
def test_where_nobody_counts_nobody_knows(counts: tuple[int | None, ...]) -> None:
    """A hint is then all that can be given."""
    assert kills(*counts).claim(1000.0) is None


def test_a_count_that_is_there_again_has_not_risen() -> None:
    """What it was before is not known."""
    memory = kills(None, 7, 8)
    assert memory.claim(1000.0) is False
    assert memory.claim(1001.0) is True


@pytest.mark.parametrize(
    ("version", "file", "text", "count"),
    [
        (2, "memory.events", "low 0\nhigh 0\nmax 12\noom 5\noom_kill 3\noom_group_kill 0\n", 3),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", 2),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", None),
        (2, "memory.events", "oom_kill many\n", None),
        (2, "another", "oom_kill 3\n", None),
    ],
)
def test_the_cgroup_says_how_many(
    tmp_path: Path, version: int, file: str, text: str, count: int | None
) -> None:
    """Of either version; an old kernel does not say."""
    (tmp_path / file).write_text(text)

    assert count_in(Cgroup(version, tmp_path)) == count


def test_the_real_system_has_an_answer() -> None:
    """It may be that nobody counts."""
    assert OomKills().claim(1000.0) in (False, None)
