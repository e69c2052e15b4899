"""Processes whose parent has died: in a program of their own, where that adopts them."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from aiocluster.primary.processes import reaper as module
from aiocluster.primary.processes.reaper import Reaper, zombie_children
from tests.support.processes import is_reaped
from tests.support.waiting import soon, turns, turns_until

# A child forks a grandchild and dies; the grandchild ends when `go` is closed.
PROGRAM = """
import asyncio, os
from pathlib import Path
from aiocluster.launch.subreaper import become_subreaper
from aiocluster.primary.processes import reaper

reaper._INTERVAL = 0.005

def make_orphan():
    told, tell = os.pipe()
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        grandchild = os.fork()
        if grandchild == 0:
            os.read(wait, 1)
            os._exit(0)
        os.write(tell, str(grandchild).encode())
        os._exit(0)
    os.close(wait)
    os.waitpid(child, 0)
    return int(os.read(told, 100)), go

def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

async def gone(pid):
    while Path(f"/proc/{pid}").exists():
        await asyncio.sleep(0.001)

async def main():
    become_subreaper()
    (stray, go), (known, go_known) = make_orphan(), make_orphan()
    print("adopted", parent_of(stray) == os.getpid())
    child = os.fork()
    if child == 0:
        os._exit(7)
    is_stray = lambda pid: pid not in (known, child)
    reaping = asyncio.create_task(reaper.reap_strays(is_stray, 0.01))
    os.close(go_known)
    os.close(go)
    while stray not in reaper.zombie_children():
        await asyncio.sleep(0.001)
    await gone(stray)
    print("reaped", not Path(f"/proc/{stray}").exists())
    print("left", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.waitpid(known, 0)[1])
    reaping.cancel()

asyncio.run(main())
"""


async def test_orphans_are_adopted_and_reaped_and_known_children_left_alone() -> None:
    """No zombie stays for ever, and nobody's exit status is taken from who waits for it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdout=PIPE, stderr=PIPE
    )
    try:
        output, errors = await soon(process.communicate())
    finally:
        if process.returncode is None:  # so that a failure is one, and does not hang
            process.kill()
            await process.communicate()

    assert errors == b""
    assert output.decode().splitlines() == ["adopted True", "reaped True", "left 7 0"]


class Known:
    """What the generations know: these zygotes, and these whose end is still to be told."""

    def __init__(self, zygotes: set[int], awaited: set[int] | None = None) -> None:
        self.zygote_pids = zygotes
        self.awaited = awaited or set()

    def knows(self, pid: int) -> bool:
        return pid in self.awaited


@pytest.mark.parametrize(
    ("own_pid", "zygotes", "is_upgrade", "is_stray"),
    [
        (100, {60}, False, False),  # the only zygote reaps its own: it is the user's
        (100, {60, 61}, False, True),  # one has died, and left us its own
        (100, {60}, True, True),  # the program before us may have left it
        (1, {60}, False, True),
    ],
)
def test_without_groups_it_goes_by_who_may_have_left_it(
    monkeypatch: pytest.MonkeyPatch,
    own_pid: int,
    zygotes: set[int],
    is_upgrade: bool,
    is_stray: bool,
) -> None:
    """The user's own children are told from orphans as well as can be."""
    monkeypatch.setattr(os, "getpid", lambda: own_pid)
    reaper = Reaper(Known(zygotes, awaited={70}), own_group=False, is_upgrade=is_upgrade)

    assert reaper.is_stray(80) is is_stray
    assert not reaper.is_stray(70)  # whatever else: somebody waits for it


def start_dead(group: int) -> int:
    """Start a child in this process group, or in its own (0), and see it dead."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", ":"], os.environ, setpgroup=group)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_with_groups_it_goes_by_the_zygotes_own() -> None:
    """Whoever is in it was left by one of its workers; the rest is the user's."""
    zygote = start_dead(0)
    orphan, awaited, users = start_dead(zygote), start_dead(zygote), start_dead(0)
    reaper = Reaper(Known({zygote}, {zygote, awaited}), own_group=True, is_upgrade=False)
    assert {zygote, orphan, awaited, users} <= zombie_children()

    assert reaper.is_stray(orphan)
    reaper.reap_rest()
    assert is_reaped(orphan)
    assert not reaper.is_stray(orphan)
    for pid in (zygote, awaited, users):
        assert os.waitpid(pid, 0) == (pid, 0)


def test_without_groups_the_rest_is_left_as_it_is() -> None:
    """Among it may be children of the user's, who asks for them after the cluster's end."""
    child = start_dead(0)
    reaper = Reaper(Known({1, 2}), own_group=False, is_upgrade=True)
    assert reaper.is_stray(child)

    reaper.reap_rest()

    assert os.waitpid(child, 0) == (child, 0)


async def test_orphans_are_reaped_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In time, though the zygote that would have reaped them has gone."""
    monkeypatch.setattr(module, "_INTERVAL", 0.001)
    monkeypatch.setattr(module, "_OWN_PATIENCE", 0.0)
    zygote = start_dead(0)
    orphan = start_dead(zygote)
    reaper = Reaper(Known({zygote}, {zygote}), own_group=True, is_upgrade=False)

    reaper.start()
    await turns_until(lambda: not Path(f"/proc/{orphan}").exists())
    reaper.close()
    reaper.close()
    await turns()

    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not is_reaped(zygote)
