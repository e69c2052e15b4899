"""Processes whose parent has died: in a program of their own, since it adopts them."""

import asyncio
import sys
from asyncio.subprocess import PIPE

from tests.support.waiting import soon

# A child forks a grandchild and dies; the grandchild ends when `go` is closed.
PROGRAM = """
import asyncio, os
from pathlib import Path
from aiocluster.primary import orphans

orphans._INTERVAL = 0.005

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
    orphans.become_subreaper()
    (stray, go), (known, go_known) = make_orphan(), make_orphan()
    print("adopted", parent_of(stray) == os.getpid())
    child = os.fork()
    if child == 0:
        os._exit(7)
    is_stray = lambda pid: pid not in (known, child)
    reaping = asyncio.create_task(orphans.reap_strays(is_stray, 0.01))
    os.close(go_known)
    os.close(go)
    while stray not in orphans.zombie_children():
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
