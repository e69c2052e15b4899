"""A policy that a user wrote chooses; where it fails round robin does, for that connection."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from aiocluster import ConfigError
from aiocluster.policies.base import C
from tests.support.choosing import EXACT, Failing, HighestSlot, counted, snapshot_where
from tests.support.cluster import Client, logged, serving, who_answers
from tests.support.program import Program


@pytest.mark.parametrize("policy", [HighestSlot, HighestSlot()], ids=["class", "object"])
async def test_a_policy_of_one_s_own_chooses(policy: object) -> None:
    """Given as a class, or as an object of it."""
    async with serving(workers=3, policy=policy, **EXACT) as (cluster, _):
        assert await counted(cluster, 10) == {2: 10}


OWN = """
class SecondSlot:
    def choose(self, candidates, affinity):
        return candidates[1]

second = SecondSlot()
"""

APP = """
import os
from aiohttp import web
import aiocluster

async def slot(request):
    return web.Response(text=str(aiocluster.current_worker().slot))

def make_app():
    app = web.Application()
    app.router.add_get("/", slot)
    return app
"""


def command(folder: Path, *options: str) -> Program:
    """Return a program that is the command line, in a folder with an app and a policy."""
    line = ["-m", "aiocluster", "run", "app:make_app", "-w", "3", *options]
    program = Program(folder, command=[sys.executable, *line])
    program.write("app.py", APP)
    program.write("own.py", OWN)
    return program


@pytest.mark.parametrize("name", ["own:SecondSlot", "own:second"])
async def test_a_policy_is_imported_by_the_command_line(tmp_path: Path, name: str) -> None:
    """From a module of the current folder; and it still chooses after a reload."""
    options = [
        "--bind",
        "127.0.0.1:0",
        "--policy",
        name,
        "--behind-after",
        "3600",
        "--min-uptime",
        "0",
    ]
    async with command(tmp_path, *options) as program:
        url = await program.url()
        assert {await ask_slot(url) for _ in range(8)} == {"1"}
        program.send_signal(signal.SIGHUP)
        await program.line("generation 2 serves")
        assert {await ask_slot(url) for _ in range(8)} == {"1"}
        assert await program.stop() == 0


async def ask_slot(url: str) -> str:
    async with await Client.connect(url) as client:
        return await client.get("/")


@pytest.mark.parametrize(
    ("policy", "code", "cause"),
    [
        ("fastest", 2, "policy: 'fastest' is not allowed"),
        ("rond_robin", 2, "did you mean 'round_robin'?"),
        ("weighted:3,x", 2, "weighted:3,x"),
        ("sticky:cookie", 2, "by='cookie' is not allowed"),
        ("127.0.0.1:9=sticky", 2, "127.0.0.1:9 is not among the addresses of bind"),
        # What only importing can show.
        ("own:Missing", 3, "has no 'Missing'"),
        ("nowhere:Policy", 3, "there is no module 'nowhere'"),
        ("own:__name__", 3, "policy: 'own' is not allowed"),
    ],
)
async def test_a_policy_that_is_none_ends_the_start(
    tmp_path: Path, policy: str, code: int, cause: str
) -> None:
    """With the value named, and no traceback."""
    async with command(tmp_path, "--bind", "127.0.0.1:0", "--policy", policy) as program:
        assert await program.exit_code() == code
        output = " ".join((await program.all_output()).split())

    assert cause in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("policy", "cause"),
    [
        ("fastest", "policy: 'fastest' is not allowed"),
        ({"127.0.0.1:1": "sticky"}, "policy: 127.0.0.1:1 is not among the addresses of bind"),
        ({"127.0.0.1:0": "fastest"}, "policy: 'fastest' is not allowed"),
        ({"web": "sticky"}, "policy: 'web' is not an address of bind"),
        ({("127.0.0.1:0", "127.0.0.2:0"): "sticky"}, "is not an address of bind"),
        ({}, "policy: {} is not allowed"),
        (object(), "is not allowed"),
    ],
)
async def test_a_mistake_is_told_before_anything_starts(policy: object, cause: str) -> None:
    """A ConfigError that names the value."""
    with pytest.raises(ConfigError, match=cause.replace("{", r"\{")):
        async with serving(policy=policy):
            raise AssertionError


class Unspeakable:
    def __repr__(self) -> str:
        raise ValueError("no repr")


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (RuntimeError("no idea"), "raised"),
        (None, "chose None"),
        (17, "chose 17"),
        ("worker 1", "chose 'worker 1'"),
        (asyncio.CancelledError(), "raised"),
        (SystemExit(7), "raised"),
        (Unspeakable(), "chose a Unspeakable without a repr"),
    ],
    ids=["raises", "none", "number", "text", "cancels", "exits", "unspeakable"],
)
async def test_round_robin_chooses_where_a_policy_fails(
    caplog: pytest.LogCaptureFixture, answer: object, what: str
) -> None:
    """Every connection is served, and each failure is counted; a few of them are logged."""
    async with serving(workers=3, policy=Failing(answer), **EXACT) as (cluster, _):
        assert await counted(cluster, 30) == {0: 10, 1: 10, 2: 10}
        snapshot = await snapshot_where(cluster, lambda one: True)
        await logged(caplog, what)

    assert snapshot.dispatch["web"].policy_failures == 30
    assert 1 <= caplog.text.count("round robin chooses instead") <= 6


class FailingNowAndThen:
    """Chooses the first, but raises for each third connection."""

    def __init__(self) -> None:
        self.asked = 0

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        self.asked += 1
        if self.asked % 3 == 0:
            raise KeyError("third")
        return candidates[0]


async def test_a_policy_that_fails_once_is_asked_again() -> None:
    """Round robin chooses for that connection alone."""
    async with serving(workers=2, policy=FailingNowAndThen(), **EXACT) as (cluster, _):
        slots = [(await who_answers(cluster))["slot"] for _ in range(12)]

    assert slots == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
