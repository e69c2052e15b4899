"""What the kernel refuses, told in one line."""

import errno
import os

import pytest

from aiocluster.shortage import is_shortage, shortage


def refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "limit", "passes"),
    [
        (errno.EAGAIN, "ulimit -u", True),
        (errno.EMFILE, "ulimit -n", True),
        (errno.ENFILE, "fs.file-max", True),
        (errno.ENOMEM, "memory.max", True),
        (errno.ENOBUFS, "memory.max", True),
        (errno.EPERM, "seccomp", False),
        (errno.ENOSYS, "seccomp", False),
    ],
)
def test_the_limit_to_look_at_is_named(number: int, limit: str, passes: bool) -> None:
    """With what was refused and the kernel's own words."""
    text = shortage(refusal(number), "the fork of a zygote")

    assert text.startswith(f"the kernel refused the fork of a zygote: {os.strerror(number)}; look")
    assert limit in text
    assert is_shortage(refusal(number)) == passes


def test_an_error_that_is_not_known_is_told_as_it_is() -> None:
    """Nothing is made up."""
    assert shortage(refusal(errno.EIO), "a file") == "the kernel refused a file: Input/output error"
    assert shortage(OSError("odd"), "a file") == "the kernel refused a file: odd"
    assert not is_shortage(OSError("odd"))
