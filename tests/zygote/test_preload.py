"""One import, and what is said of it; and which loops it makes."""

import asyncio
import mmap
import os
import random
import re
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvloop

from aiocluster.zygote.preload import Before, Imported, _policy, inspected, prefer_uvloop

Load = Callable[[], object]


@pytest.fixture
def starts_a_thread() -> Iterator[Load]:
    """A load that starts a thread, which lives until the test is over."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def load() -> object:
        threads.append(threading.Thread(target=over.wait, name="flusher"))
        threads[-1].start()
        return "the app"

    yield load
    over.set()
    for thread in threads:
        thread.join()


def imported(load: Load) -> Imported:
    before = Before()
    return inspected(load(), before)


def test_what_was_loaded_is_returned() -> None:
    """The very object, for every worker to inherit; a plain import leaves nothing."""
    app = object()

    outcome = imported(lambda: app)

    assert (outcome.app, outcome.left, outcome.generators) == (app, [], [])
    assert not outcome.by_program


def test_what_the_import_started_is_named(starts_a_thread: Load) -> None:
    """Beside the app, which is there all the same."""
    outcome = imported(starts_a_thread)

    assert (outcome.app, outcome.left) == ("the app", ["thread 'flusher'"])


def test_a_thread_that_was_there_before_does_not_count(starts_a_thread: Load) -> None:
    """Only what the import itself starts is its doing."""
    starts_a_thread()

    assert imported(lambda: "the app").left == []


def test_what_only_the_collector_still_has_does_not_count() -> None:
    """A connection that was closed by being forgotten, if only in a cycle."""

    def load() -> object:
        ours, theirs = socket.socketpair()
        # As an object of the user's that refers to itself, and closes what it has in the end.
        cycle: list[object] = [_Closing(ours.detach(), theirs.detach())]
        cycle.append(cycle)
        return "the app"

    assert imported(load).left == []


class _Closing:
    def __init__(self, *fds: int) -> None:
        self._fds = fds

    def __del__(self) -> None:
        for fd in self._fds:
            os.close(fd)


def test_generators_of_modules_that_it_brought_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those that were there before: they are not the import's."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("drawing_before", "drawing"):
        (tmp_path / f"{name}.py").write_text("import random\nown = random.Random(1)\n")
    __import__("drawing_before")
    try:
        outcome = imported(lambda: __import__("drawing"))
    finally:
        del sys.modules["drawing"], sys.modules["drawing_before"]

    assert outcome.generators == ["drawing.own"]
    assert random.Random(1).random() == outcome.app.own.random()  # type: ignore[attr-defined]


def test_a_generator_of_a_script_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script is another __main__ than there was; multiprocessing gives it a second name."""

    def run() -> None:
        script = ModuleType("__main__")
        script.__file__ = str(tmp_path / "server.py")
        script.own = random.Random()  # type: ignore[attr-defined]
        for name in ("__main__", "__mp_main__"):
            monkeypatch.setitem(sys.modules, name, script)

    assert imported(run).generators == ["__main__.own"]


def test_an_import_that_takes_memory_says_how_much() -> None:
    """What each worker would hold if it imported for itself."""
    size = 2**25

    def load() -> object:
        # A mapping of its own: what is allocated as usual may be memory that was in use before.
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block[:] = b"x" * size
        return block

    assert imported(load).grown > size // 2


def test_what_the_program_has_opened_counts_where_it_made_the_app() -> None:
    """It was there before, and still is shared; but no import of ours brought it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outcome = inspected("the app", Before.the_program([theirs.fileno()]))

        assert outcome.by_program
        listed = re.findall(r"\(descriptors? ([\d, ]+)\)", " ".join(outcome.left))
        named = ", ".join(listed).split(", ")
        assert str(ours.fileno()) in named
        assert str(theirs.fileno()) not in named


def test_a_program_that_takes_the_place_finds_nothing_of_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins in the folder and the environment of before, without a descriptor of it."""
    monkeypatch.setenv("SHOP", "before")
    monkeypatch.chdir(tmp_path)
    before = Before()
    with socket.socket() as opened, socket.socket() as closed:
        opened.set_inheritable(True)
        closed.close()
        monkeypatch.setenv("SHOP", "after")
        monkeypatch.chdir("/")
        before.prepare_exec()

        assert not opened.get_inheritable()
    assert os.getcwd() == str(tmp_path)
    assert before.environ["SHOP"] == "before"
    os.close(before.folder)


@pytest.fixture
def policy() -> Iterator[None]:
    """Whatever the test sets is gone after it."""
    before = asyncio.get_event_loop_policy()
    yield
    asyncio.set_event_loop_policy(before)


@pytest.mark.usefixtures("policy")
def test_loops_are_of_uvloop() -> None:
    """So that what the import bound to one can be used in a worker."""
    asyncio.set_event_loop_policy(None)
    prefer_uvloop()
    loop = asyncio.new_event_loop()
    loop.close()

    assert isinstance(loop, uvloop.Loop)


@pytest.mark.usefixtures("policy")
def test_a_policy_that_the_program_chose_stays() -> None:
    """It may have a reason."""
    own = type("Own", (asyncio.DefaultEventLoopPolicy,), {})()
    asyncio.set_event_loop_policy(own)
    prefer_uvloop()

    assert asyncio.get_event_loop_policy() is own


def test_what_a_shared_import_left_is_told() -> None:
    """Where the program left it, preload has no say; else it is what was insisted on."""
    left = Imported(None, ["a thread"], ["own.RNG"])
    first, second = left.notes("shop:app")
    assert "shop:app" in first
    assert "a thread" in first
    assert "own.RNG" in second
    (note,) = Imported(None, ["a thread"], by_program=True).notes("shop:app")
    assert "shop:app" not in note
    assert [*Imported(None).notes("shop:app")] == []


@pytest.fixture
def own_policy() -> Iterator[Any]:
    """The policy of a zygote, whose loop is closed afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = _policy()
        yield policy
        if (loop := policy._local._loop) is not None:
            loop.close()


def test_the_main_thread_gets_a_loop_where_pythons_policy_would_make_one(own_policy: Any) -> None:
    """Each time the same, one of uvloop's; from Python 3.14 on none is made."""
    if sys.version_info >= (3, 14):
        with pytest.raises(RuntimeError):
            own_policy.get_event_loop()
        return
    loop = own_policy.get_event_loop()
    assert isinstance(loop, uvloop.Loop)
    assert own_policy.get_event_loop() is loop


def test_a_loop_taken_away_is_made_anew(own_policy: Any) -> None:
    """As after asyncio.run, which leaves none: an import may run several loops."""
    own_policy.set_event_loop(own_policy.new_event_loop())
    own_policy.get_event_loop().close()
    own_policy.set_event_loop(None)
    if sys.version_info < (3, 14):
        assert not own_policy.get_event_loop().is_closed()


def test_another_thread_gets_no_loop(own_policy: Any) -> None:
    """As with Python's own policy."""
    raised: list[Exception] = []

    def ask() -> None:
        try:
            own_policy.get_event_loop()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert len(raised) == 1
