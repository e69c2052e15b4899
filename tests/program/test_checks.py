"""What `run` checks before it starts anything."""

import os
import threading
from typing import Any

import pytest

from aiocluster.errors import ConfigError
from aiocluster.program.checks import check_place, on_start_from, warn_of_threads


async def hook(cluster: object) -> None: ...


def test_the_main_thread_without_a_loop_is_the_place() -> None:
    """Where a program calls `run`."""
    check_place()


async def test_a_running_loop_is_no_place() -> None:
    """A second loop cannot run inside the first."""
    with pytest.raises(ConfigError, match=r"running event loop; .* aiocluster\.Cluster"):
        check_place()


def test_the_hook_is_what_was_given_or_what_is_named() -> None:
    """None is no hook."""
    assert on_start_from(None) is None
    assert on_start_from(hook) is hook
    named: object = on_start_from("os.path:exists")
    assert named is os.path.exists


def no_argument() -> None: ...


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (17, "on_start: 17 is not a function that takes the cluster"),
        (no_argument, "must take one argument, the cluster"),
        ("os.path:gone", "gone"),
    ],
)
def test_a_hook_that_is_none_is_refused(given: Any, reason: str) -> None:
    """By what was given."""
    with pytest.raises(ConfigError, match=reason):
        on_start_from(given)


def test_threads_that_run_before_the_fork_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """They do not exist in the workers."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="poller")
    thread.start()
    try:
        warn_of_threads()
    finally:
        over.set()
        thread.join()
    assert "threads run already (" in caplog.text
    assert "poller" in caplog.text
