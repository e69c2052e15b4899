from pathlib import Path

import pytest

from aiocluster.config.cpus import available_cpus

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = (
    "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "34 31 0:31 / /sys/fs/cgroup/cpuset rw shared:10 - cgroup cgroup rw,cpuset"
)
HYBRID_MOUNT = f"{V1_MOUNT}\n41 31 0:38 / /sys/fs/cgroup/unified rw shared:11 - cgroup2 cgroup2 rw"
V1 = "sys/fs/cgroup/cpu,cpuacct"


class FakeSystem:
    """A made-up file system with what /proc and the cgroups say."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def says(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def is_in(self, cgroup: str, mounts: str) -> None:
        self.says("proc/self/cgroup", cgroup)
        self.says("proc/self/mountinfo", mounts)

    def has_v1_quota(self, folder: str, quota: str, period: str = "100000") -> None:
        self.says(f"{folder}/cpu.cfs_quota_us", quota)
        self.says(f"{folder}/cpu.cfs_period_us", period)

    def cpus(self, affinity: int = 64) -> int:
        return available_cpus(self.root, affinity)


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def test_without_cgroups_the_affinity_counts(system: FakeSystem) -> None:
    """Where nothing is limited, every CPU the scheduler allows is used."""
    assert system.cpus(affinity=6) == 6


def test_the_real_system_has_an_answer() -> None:
    """On the machine at hand there is at least one CPU."""
    assert available_cpus() >= 1


def test_never_less_than_one(system: FakeSystem) -> None:
    """Somebody has to serve."""
    assert system.cpus(affinity=0) == 1


@pytest.mark.parametrize(
    ("cpu_max", "cpus"),
    [("150000 100000", 2), ("200000 100000", 2), ("1000 100000", 1), ("50000 10000", 5)],
)
def test_a_v2_quota_is_rounded_up(system: FakeSystem, cpu_max: str, cpus: int) -> None:
    """Half a CPU is worth a worker: unused it would be lost."""
    system.is_in("0::/app", V2_MOUNT)
    system.says("sys/fs/cgroup/app/cpu.max", cpu_max)
    assert system.cpus() == cpus


def test_the_affinity_wins_when_it_is_lower(system: FakeSystem) -> None:
    """Both limits hold."""
    system.is_in("0::/app", V2_MOUNT)
    system.says("sys/fs/cgroup/app/cpu.max", "800000 100000")
    assert system.cpus(affinity=3) == 3


@pytest.mark.parametrize("limited", ["a.slice", "a.slice/b.service", "a.slice/b.service/c"])
def test_the_lowest_quota_above_a_v2_cgroup_wins(system: FakeSystem, limited: str) -> None:
    """A limit on a parent holds for its children, whatever they say themselves."""
    system.is_in("0::/a.slice/b.service/c", V2_MOUNT)
    for folder in ("a.slice", "a.slice/b.service", "a.slice/b.service/c"):
        quota = "200000 100000" if folder == limited else "900000 100000"
        system.says(f"sys/fs/cgroup/{folder}/cpu.max", quota)
    assert system.cpus() == 2


def test_a_v2_cgroup_without_quota_is_not_limited(system: FakeSystem) -> None:
    """ "max" is no limit."""
    system.is_in("0::/app", V2_MOUNT)
    system.says("sys/fs/cgroup/app/cpu.max", "max 100000")
    assert system.cpus() == 64


def test_a_neighbours_quota_does_not_count(system: FakeSystem) -> None:
    """Only this process's cgroup and those above it limit it."""
    system.is_in("0::/app", V2_MOUNT)
    system.says("sys/fs/cgroup/app/cpu.max", "max 100000")
    system.says("sys/fs/cgroup/other/cpu.max", "100000 100000")
    assert system.cpus() == 64


def test_a_v2_container_sees_its_own_cgroup_as_the_root(system: FakeSystem) -> None:
    """In a cgroup namespace the path is / and the quota is in the mount's root."""
    system.is_in("0::/", V2_MOUNT)
    system.says("sys/fs/cgroup/cpu.max", "300000 100000")
    assert system.cpus() == 3


@pytest.mark.parametrize("path", ["/docker/1f0c", "/../other", "/docker/1f0c (deleted)"])
def test_a_path_that_the_container_cannot_see_means_the_mounts_root(
    system: FakeSystem, path: str
) -> None:
    """Without a namespace the path is the host's, but the mount shows only the container's."""
    system.is_in(f"0::{path}", V2_MOUNT)
    system.says("sys/fs/cgroup/cpu.max", "300000 100000")
    system.says("sys/fs/other/cpu.max", "100000 100000")
    assert system.cpus() == 3


def test_the_cgroup_a_mount_shows_is_taken_off_the_path(system: FakeSystem) -> None:
    """A mount of /docker/1f0c shows /docker/1f0c/app as /app."""
    mounts = V2_MOUNT.replace(" / /sys", " /docker/1f0c /sys")
    system.is_in("0::/docker/1f0c/app", mounts)
    system.says("sys/fs/cgroup/app/cpu.max", "300000 100000")
    system.says("sys/fs/cgroup/cpu.max", "700000 100000")
    assert system.cpus() == 3


def test_a_mount_point_with_a_space_is_found(system: FakeSystem) -> None:
    """mountinfo writes a space as its octal code."""
    system.is_in("0::/", V2_MOUNT.replace("/sys/fs/cgroup", r"/my\040cgroup"))
    system.says("my cgroup/cpu.max", "300000 100000")
    assert system.cpus() == 3


def test_a_v1_quota_counts(system: FakeSystem) -> None:
    """The CPU controller may be mounted together with another one."""
    system.is_in("5:cpuset:/x\n4:cpu,cpuacct:/app", V1_MOUNT)
    system.has_v1_quota(f"{V1}/app", "150000")
    system.has_v1_quota(V1, "-1")
    assert system.cpus() == 2


def test_the_lowest_quota_above_a_v1_cgroup_wins(system: FakeSystem) -> None:
    """As in version 2, a limit on a parent holds for its children."""
    system.is_in("4:cpu,cpuacct:/a/b", V1_MOUNT)
    system.has_v1_quota(f"{V1}/a/b", "900000")
    system.has_v1_quota(f"{V1}/a", "50000", period="25000")
    assert system.cpus() == 2


def test_a_v1_cgroup_without_quota_is_not_limited(system: FakeSystem) -> None:
    """-1 is no limit."""
    system.is_in("4:cpu,cpuacct:/app", V1_MOUNT)
    system.has_v1_quota(f"{V1}/app", "-1")
    assert system.cpus() == 64


def test_a_v1_container_mounts_its_own_cgroup(system: FakeSystem) -> None:
    """The path is the host's, and the mount shows it as its root."""
    system.is_in("4:cpu,cpuacct:/docker/1f0c", V1_MOUNT.replace(" / /sys", " /docker/1f0c /sys"))
    system.has_v1_quota(V1, "200000")
    assert system.cpus() == 2


def test_a_hybrid_systems_v1_quota_counts(system: FakeSystem) -> None:
    """The CPU controller is in version 1 there, and version 2 is mounted beside it."""
    system.is_in("4:cpu,cpuacct:/app\n0::/app", HYBRID_MOUNT)
    system.has_v1_quota(f"{V1}/app", "300000")
    system.says("sys/fs/cgroup/unified/app/cgroup.procs", "")
    assert system.cpus() == 3


def test_a_hybrid_systems_v2_quota_counts(system: FakeSystem) -> None:
    """Wherever the controller is, its quota is found."""
    system.is_in("1:name=systemd:/app\n0::/app", HYBRID_MOUNT)
    system.says("sys/fs/cgroup/unified/app/cpu.max", "300000 100000")
    assert system.cpus() == 3


@pytest.mark.parametrize(
    "garbage",
    [
        *("", "max", "100000", "x y", "-5 100000", "100000 0", "0 100000", "1.5 1", "nan 1"),
        *("²00000 100000", "9" * 5000 + " 1", "1 2 3", "\x00"),
    ],
)
def test_a_garbage_quota_is_no_quota(system: FakeSystem, garbage: str) -> None:
    """Too many workers are better than no start."""
    system.is_in("0::/app", V2_MOUNT)
    system.says("sys/fs/cgroup/app/cpu.max", garbage)
    assert system.cpus() == 64


@pytest.mark.parametrize("garbage", ["", ":", "0:", "0::", "a b c - cgroup2", " - ", "\x00\n::::"])
def test_garbage_in_proc_is_no_quota(system: FakeSystem, garbage: str) -> None:
    """Nothing that /proc says stops the start."""
    system.is_in(garbage, V2_MOUNT)
    assert system.cpus() == 64
    system.is_in("0::/app", garbage)
    assert system.cpus() == 64


@pytest.mark.parametrize("point", [r"/x\000y", r"/x\777", "/" + "y" * 5000])
def test_an_impossible_mount_point_is_no_quota(system: FakeSystem, point: str) -> None:
    """A path that no file can have is one that cannot be read."""
    system.is_in("0::/app", V2_MOUNT.replace("/sys/fs/cgroup", point))
    assert system.cpus() == 64


def test_a_file_that_is_not_text_is_no_quota(system: FakeSystem) -> None:
    """Bytes that no text has are garbage like any other."""
    system.is_in("0::/", V2_MOUNT)
    system.says("sys/fs/cgroup/cpu.max", "")
    (system.root / "sys/fs/cgroup/cpu.max").write_bytes(b"\xff\xfe\x00")
    assert system.cpus() == 64


def test_a_folder_in_place_of_a_file_is_no_quota(system: FakeSystem) -> None:
    """What cannot be read is no limit."""
    system.is_in("0::/", V2_MOUNT)
    (system.root / "sys/fs/cgroup/cpu.max").mkdir(parents=True)
    assert system.cpus() == 64
