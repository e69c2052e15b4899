"""Which loop a worker runs on, by what its import left."""

import subprocess
import sys

import pytest

PRELUDE = """
import asyncio, gc, threading, warnings
import uvloop
from aiocluster.errors import ConfigError
from aiocluster.worker.event_loop import loop_after_import

warnings.simplefilter("error")
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
known = {}

def new(name):
    loop = known[name] = asyncio.new_event_loop()
    return loop
"""

SAY = """
try:
    loop = loop_after_import()
    names = [name for name, one in known.items() if one is loop]
    print(*names, type(loop).__module__, loop.is_closed())
except ConfigError as error:
    print(error)
"""


def chosen(code: str) -> str:
    """Return the name of the loop that is chosen after this, if it has one."""
    ended = subprocess.run(
        [sys.executable, "-c", PRELUDE + code + SAY], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


NEW = "uvloop False"

LEFT = {
    "nothing": ("", NEW),
    "asyncio.run": ("asyncio.run(asyncio.sleep(0))", NEW),
    "a loop that is closed": ("new('a').close()", NEW),
    "a current loop that is closed": ("asyncio.set_event_loop(new('a')); known['a'].close()", NEW),
    "the current loop": ("asyncio.set_event_loop(new('a'))", "a uvloop False"),
    "the current loop and others": (
        "new('a'); asyncio.set_event_loop(new('b')); new('c')",
        "b uvloop False",
    ),
    "a loop that is not current": (
        "new('a').run_until_complete(asyncio.sleep(0))",
        "a uvloop False",
    ),
    "an open one beside a closed current one": (
        "new('a'); asyncio.set_event_loop(new('b')); known['b'].close()",
        "a uvloop False",
    ),
    "one that nothing refers to": ("new('a'); del known['a']", NEW),
    "one that only a cycle refers to": ("l = new('a'); l.me = l; del l, known['a']", NEW),
    "a policy of the app's": (
        "asyncio.set_event_loop_policy(uvloop.EventLoopPolicy()); asyncio.set_event_loop(new('a'))",
        "a uvloop False",
    ),
    "one that runs in a thread": (
        "threading.Thread(target=new('a').run_forever, daemon=True).start();"
        "asyncio.run_coroutine_threadsafe(asyncio.sleep(0), known['a']).result()",
        NEW,
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_a_worker_runs_on_the_loop_that_was_left_open(what: str) -> None:
    """What the import bound to it works there only; where there is none it makes its own."""
    code, said = LEFT[what]

    assert chosen(code) == said


def test_several_loops_are_refused() -> None:
    """On one of them what is bound to the other would fail, at the first request."""
    said = chosen("new('a'); new('b')")

    assert said.startswith("importing the app left 2 open event loops")
    assert "asyncio.set_event_loop" in said


def test_a_loop_of_another_kind_is_refused() -> None:
    """Connections are handed to uvloop's."""
    said = chosen("known['a'] = asyncio.SelectorEventLoop()")

    assert "an open event loop of type _UnixSelectorEventLoop" in said
    assert "asyncio.new_event_loop" in said
