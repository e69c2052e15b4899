import threading
from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from aiocluster.errors import ConfigError
from aiocluster.ipc.messages import PrepareFailed
from aiocluster.zygote.preload import preload

EVERY_SETTING: list[bool | Literal["auto"]] = [True, "auto"]

Load = Callable[[], object]


@pytest.fixture
def starts_a_thread() -> Iterator[Load]:
    """A load that starts a thread, which lives until the test is over."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def load() -> object:
        threads.append(threading.Thread(target=over.wait))
        threads[-1].start()
        return "the app"

    yield load
    over.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("setting", EVERY_SETTING)
def test_what_was_loaded_is_returned(setting: bool | Literal["auto"]) -> None:
    """The very object, for every worker to inherit."""
    app = object()

    assert preload(lambda: app, setting) is app


def test_without_preload_nothing_is_loaded() -> None:
    """No code of the user's runs in the zygote then."""
    loaded: list[str] = []

    assert preload(lambda: loaded.append("app"), False) is None
    assert loaded == []


def test_an_import_that_starts_a_thread_is_not_forked(starts_a_thread: Load) -> None:
    """The thread would be missing in the workers, and what it had locked stay locked."""
    assert preload(starts_a_thread, "auto") is None


def test_who_insists_gets_the_app_in_spite_of_its_thread(starts_a_thread: Load) -> None:
    """`preload=True` is the user's word that it is safe."""
    assert preload(starts_a_thread, True) == "the app"


def test_a_thread_that_was_there_before_does_not_count(starts_a_thread: Load) -> None:
    """Only what the import itself starts is its doing."""
    starts_a_thread()

    assert preload(lambda: "the app", "auto") == "the app"


def test_a_thread_that_has_ended_does_not_count() -> None:
    """What is over cannot be missing in a worker."""

    def load() -> object:
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        return "the app"

    assert preload(load, "auto") == "the app"


@pytest.mark.parametrize("setting", EVERY_SETTING)
@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("no database"), "ValueError: no database"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ModuleNotFoundError("No module named 'x'"), "ModuleNotFoundError: No module named 'x'"),
    ],
    ids=repr,
)
def test_an_import_that_fails_is_told(
    setting: bool | Literal["auto"], error: BaseException, cause: str
) -> None:
    """Whatever it raised, also what means to end the program: the primary shall say why."""

    def load() -> object:
        raise error

    failed = preload(load, setting)

    assert isinstance(failed, PrepareFailed)
    assert failed.cause == cause
    assert "in load" in failed.traceback


def test_a_failure_counts_more_than_a_thread(starts_a_thread: Load) -> None:
    """It would fail in every worker as well."""

    def load() -> object:
        starts_a_thread()
        raise ValueError("no database")

    assert isinstance(preload(load, "auto"), PrepareFailed)


def test_an_app_that_is_not_there_needs_no_traceback() -> None:
    """The text of a ConfigError says it all."""

    def load() -> object:
        raise ConfigError("app 'web:ap': module 'web' has no 'ap'")

    assert preload(load, "auto") == PrepareFailed("app 'web:ap': module 'web' has no 'ap'", "")
