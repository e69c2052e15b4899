"""A call of run_app, as settings and as a trial; each trial in a process of its own."""

import logging
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from aiocluster.children.call import call_from_environment, log_access_by, settings_of
from aiocluster.config.roles import RoleSpec
from aiocluster.config.run_app import RunAppCall
from aiocluster.config.settings import settings_from
from aiocluster.errors import ConfigError
from aiocluster.launch.interpreter import ZYGOTE_CALLED

TRIAL = """
from aiocluster.children.call import try_app
from aiocluster.config.roles import RoleSpec
from aiocluster.config.script import Script
from aiocluster.config.settings import Settings
try:
    try_app(RoleSpec("web", Script("server.py"), Settings()))
except Exception as error:
    print(error)
else:
    print("would serve")
"""


def tried(script: str, folder: Path) -> str:
    """Return what a trial of this script says at its end."""
    (folder / "server.py").write_text(f"from aiohttp import web\n{script}\n")
    done = subprocess.run(
        [sys.executable, "-c", TRIAL], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_a_trial_ends_at_the_call(tmp_path: Path) -> None:
    """What follows it is not run."""
    text = "web.run_app(web.Application(), port=0)\nprint('after')"
    assert tried(text, tmp_path) == "would serve"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("web.run_app(web.Application(), path='x')", "server.py: web.run_app was given path"),
        ("import aiocluster; aiocluster.run('a:b')", "server.py calls aiocluster.run"),
        (
            "import aiocluster; aiocluster.Cluster('a:b')",
            "server.py makes a Cluster itself, so it is the program that serves: run it with"
            " python, `python server.py`",
        ),
        (
            "import aiocluster, asyncio\n"
            "async def main():\n"
            "    async with aiocluster.Cluster('a:b'): pass\n"
            "asyncio.run(main())",
            "server.py makes a Cluster itself",
        ),
        (
            "import aiocluster\ntry: aiocluster.Cluster('a:b')\nexcept Exception: pass",
            "server.py makes a Cluster itself",
        ),
        ("raise ValueError('no database')", "no database"),
        ("", "server.py ended without a call of web.run_app"),
    ],
)
def test_a_trial_raises_why_a_start_would_fail(script: str, reason: str, tmp_path: Path) -> None:
    """The same error as the start would end with."""
    assert tried(script, tmp_path).startswith(reason)


def test_what_was_given_to_the_cluster_comes_before_the_call() -> None:
    """And what cannot be had names the script."""
    settings = settings_from({"backlog": 7})
    spec = RoleSpec("web", "server.py", settings, given=frozenset({"backlog"}))

    found, _ = settings_of(spec, {"backlog": 9, "keepalive_timeout": 3})

    assert (found.backlog, found.keepalive_timeout) == (7, 3)
    with pytest.raises(ConfigError, match=r"server\.py: web\.run_app was given reuse_port"):
        settings_of(spec, {"reuse_port": True})


def test_a_call_is_found_once_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not passed on to what the process starts."""
    call = RunAppCall({"bind": ["127.0.0.1:1"]}, "port 1")
    monkeypatch.setenv(ZYGOTE_CALLED, msgspec.json.encode(call).decode())

    assert call_from_environment() == call
    assert call_from_environment() is None


def test_the_access_log_goes_to_the_logger_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster writes to it by its name."""
    loggers = logging.root.manager.loggerDict
    monkeypatch.setitem(loggers, "aiohttp.access", logging.getLogger("aiohttp.access"))
    own = logging.Logger("own")

    log_access_by(own)

    assert logging.getLogger("aiohttp.access") is own
