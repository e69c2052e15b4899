"""The cgroups of this process; what a quota makes of them is shown in test_cpus.py."""

from pathlib import Path

import pytest

from aiocluster.config.cgroups import Cgroup, own_cgroups

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 31 0:30 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory"


def found(root: Path, membership: str, mounts: str, *folders: str) -> list[tuple[int, str]]:
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for name, text in (("cgroup", membership), ("mountinfo", mounts)):
        (root / "proc/self").mkdir(parents=True, exist_ok=True)
        (root / "proc/self" / name).write_text(f"{text}\n")
    return [
        (cgroup.version, str(cgroup.folder.relative_to(root)))
        for cgroup in own_cgroups("memory", root)
    ]


def test_the_own_one_comes_first_then_those_above(tmp_path: Path) -> None:
    """What is counted in it is counted in those too."""
    assert found(tmp_path, "0::/a/b", V2, "sys/fs/cgroup/a/b") == [
        (2, "sys/fs/cgroup/a/b"),
        (2, "sys/fs/cgroup/a"),
        (2, "sys/fs/cgroup"),
    ]


def test_of_version_1_only_the_controller_that_is_asked_for_counts(tmp_path: Path) -> None:
    """Each of its controllers has a tree of its own."""
    both = "5:cpu:/c\n4:memory:/m"
    mounts = f"{V1}\n34 31 0:31 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu"
    folders = found(tmp_path, both, mounts, "sys/fs/cgroup/memory/m", "sys/fs/cgroup/cpu/c")

    assert folders[0] == (1, "sys/fs/cgroup/memory/m")
    assert {folder.split("/")[3] for _, folder in folders} == {"memory"}


def test_in_a_container_the_root_of_the_mount_is_its_own(tmp_path: Path) -> None:
    """The path is the host's, and is not there."""
    folders = found(tmp_path, "0::/docker/1234", V2, "sys/fs/cgroup")
    assert folders == [(2, "sys/fs/cgroup")]


@pytest.mark.parametrize("membership", ["", "nonsense", "4:cpu:/x"])
def test_without_the_controller_there_is_none(tmp_path: Path, membership: str) -> None:
    """Nothing is guessed."""
    assert found(tmp_path, membership, V1) == []


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    """Nor one that is none, nor one that is no text: whatever it says cannot be meant."""
    (tmp_path / "memory.events").write_bytes(b"\xff oom_kill 3\n")
    (tmp_path / "folder").mkdir()
    cgroup = Cgroup(2, tmp_path)

    assert cgroup.says("memory.events").endswith("oom_kill 3\n")
    assert [cgroup.says(name) for name in ("folder", "missing", "nul\0")] == ["", "", ""]
