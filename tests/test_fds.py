import os
import resource

import pytest

from aiocluster import fds
from aiocluster.fds import (
    _is_size_count,
    check_fds_left,
    fd_limit,
    open_fd_count,
    raise_fd_limit,
)


def test_the_soft_limit_becomes_the_hard_one() -> None:
    """A shell's usual 1024 would be used up by as many clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    try:
        raise_fd_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert fd_limit() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("by_size", [_is_size_count(), False])
def test_the_descriptors_that_are_open_are_counted(
    by_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of this process, without the one that it takes to list them."""
    monkeypatch.setattr("aiocluster.fds._SIZE_IS_COUNT", by_size)
    before = open_fd_count()
    with open(os.devnull), open(os.devnull):
        assert open_fd_count() == before + 2 == len(os.listdir("/proc/self/fd")) - 1


@pytest.mark.parametrize("size", [0, 4096])
def test_a_size_that_is_no_count_is_not_believed(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.2 it is 0."""
    told = os.stat_result((*os.stat("/proc/self/fd")[:6], size, 0, 0, 0))
    monkeypatch.setattr(os, "stat", lambda path: told)

    assert not _is_size_count()


@pytest.mark.parametrize("by_size", [True, False])
def test_where_they_cannot_be_seen_there_are_the_standard_ones(
    by_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system without /proc starts as well."""

    def hide(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr("aiocluster.fds._SIZE_IS_COUNT", by_size)
    monkeypatch.setattr(os, "listdir", hide)
    monkeypatch.setattr(os, "stat", hide)
    assert open_fd_count() == 3
    assert not _is_size_count()


def test_whether_there_is_room_for_more_can_be_asked() -> None:
    """It leaves nothing open, whatever the answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = open_fd_count()
    check_fds_left(3, 2)
    # The lowest free numbers are below that.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            check_fds_left(256, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert open_fd_count() == before


def test_descriptors_that_cannot_be_seen_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker starts also where /proc is not mounted; its loop's are not checked then."""
    with open(os.devnull) as file:
        assert file.fileno() in fds.open_fds()
        monkeypatch.setattr(fds, "_OPEN", "/nowhere")
        assert fds.open_fds() == set()
