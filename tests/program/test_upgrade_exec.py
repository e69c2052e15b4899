"""What a program was started to be, and what it says or inherits; nothing is executed here."""

import os
import sys
from collections.abc import Callable, Sequence

import msgspec
import pytest

from aiocluster.errors import ConfigError
from aiocluster.ipc.handover import RECORD, HandoverState, ListenerState, to_bytes
from aiocluster.ipc.messages import PROTOCOL
from aiocluster.launch.interpreter import InterpreterSpec
from aiocluster.primary.lifecycle.preflight import SUCCESSION, PreflightResult
from aiocluster.program.upgrade_exec import (
    ExecNextProgram,
    UpgradeRequest,
    answer,
    inherit,
    upgrade_request_from_environment,
)
from tests.ipc.test_handover import ESTATE, ROLE, role_without_workers
from tests.support.connections import open_fds


def without_workers(fds: list[int]) -> HandoverState:
    """Return a handover state that has these descriptors, and no others."""
    role = role_without_workers(
        listeners=[ListenerState(fd=fd, is_shared=False, asked="") for fd in fds[1:]],
        generations=msgspec.structs.replace(ROLE.generations, living=[]),
    )
    return msgspec.structs.replace(ESTATE, scoreboard=fds[0], roles={"web": role})


@pytest.mark.parametrize(
    ("text", "upgrade_request"),
    [
        ("", None),
        ("trial:1:9", UpgradeRequest("trial", 1, 9)),
        ("heir:2:10", UpgradeRequest("heir", 2, 10)),
        ("king:2:10", None),
    ],
)
def test_the_environment_says_it(
    monkeypatch: pytest.MonkeyPatch, text: str, upgrade_request: UpgradeRequest | None
) -> None:
    """An ordinary program finds nothing there."""
    monkeypatch.setenv(SUCCESSION, text)
    assert upgrade_request_from_environment() == upgrade_request


def verdict_of(
    check: Callable[[], object], monkeypatch: pytest.MonkeyPatch, roles: Sequence[str] = ()
) -> PreflightResult:
    """Let a child answer; return what it said."""
    monkeypatch.setenv(SUCCESSION, "trial:1:0")
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        answer(UpgradeRequest("trial", 1, theirs), check, roles)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return msgspec.json.decode(said, type=PreflightResult)


def test_a_trial_says_that_it_would_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its versions and roles; whether they fit is the other's to say."""
    verdict = verdict_of(lambda: None, monkeypatch, ["web", "jobs"])

    assert verdict == PreflightResult(RECORD, PROTOCOL, roles=["web", "jobs"])


def test_a_trial_says_why_it_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was raised."""

    def exits() -> None:
        sys.exit("no database")

    def refuses() -> None:
        raise ConfigError("app 'x' is none")

    assert verdict_of(exits, monkeypatch).cause == "SystemExit: no database"
    assert verdict_of(refuses, monkeypatch).cause == "app 'x' is none"


def test_an_heir_reads_what_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that it starts have none of it."""
    left = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    for fd in left:
        os.set_inheritable(fd, True)
    handover_state = without_workers(left)
    memory = os.memfd_create("test")
    os.write(memory, to_bytes(handover_state))
    os.lseek(memory, 0, os.SEEK_SET)
    monkeypatch.setenv(SUCCESSION, f"heir:1:{memory}")

    assert inherit(UpgradeRequest("heir", 1, memory)) == handover_state
    assert not any(os.get_inheritable(fd) for fd in left)
    assert SUCCESSION not in os.environ
    for fd in left:
        os.close(fd)


def test_an_exec_that_fails_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor is open that was not, nor would one be inherited."""
    left = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
    before = open_fds()

    def execve(path: str, arguments: list[str], env: dict[str, str]) -> None:
        kind, call, memory = env[SUCCESSION].split(":")
        assert (kind, call, arguments) == ("heir", "2", ["python", "program.py"])
        assert all(os.get_inheritable(fd) for fd in (*left, int(memory)))
        assert inherit(UpgradeRequest("heir", 2, os.dup(int(memory)))) == without_workers(left)
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setenv(SUCCESSION, "")
    monkeypatch.setattr(os, "execve", execve)
    heir = ExecNextProgram(InterpreterSpec(["python", "program.py"], call=2), ["web"])
    with pytest.raises(FileNotFoundError):
        heir.take_over(without_workers(left))
    assert open_fds() == before
    assert not any(os.get_inheritable(fd) for fd in left)
    for fd in left:
        os.close(fd)
