"""Workers that block, processes that are stopped and go on: clients wait, none is lost."""

from functools import partial
from pathlib import Path
from random import Random

import psutil
import pytest

from tests.chaos.client import load_on
from tests.chaos.scene import ANSWERS, SCALE, Scene, paused, resume, suspend, under_load
from tests.support.program import is_running, until
from tests.support.wire import Wire

ROUNDS = 3 * SCALE

# Above what a busy machine may keep a worker from running, below a pause of PAUSE seconds.
HANG_TIMEOUT = 3.0
PAUSE = 4.5


async def test_blocked_workers_lose_nothing(tmp_path: Path, dice: Random) -> None:
    """While a worker blocks, others go on; what waits for it is answered when it goes on."""
    async with under_load(tmp_path, dice) as scene:
        for number in range(ROUNDS):
            shared_listener = f"gate{number}"
            async with Wire(scene.url) as wire:
                await wire.ask(f"/block/{shared_listener}")
                await until(partial(_has_begun, scene, shared_listener), "no worker blocks")
                await scene.load.some(ANSWERS)
                scene.program.write(shared_listener)
                assert int((await wire.response()).body) == scene.begun()[shared_listener]
            await scene.go_on()
    scene.assert_nothing_lost()


async def test_a_crowd_goes_on_while_a_worker_is_blocked(tmp_path: Path, dice: Random) -> None:
    """Of those that come now none waits for it: what it does not take is stolen back."""
    async with under_load(tmp_path, dice, connections={"keepalive": 1}) as scene:
        for number in range(ROUNDS):
            shared_listener = f"gate{number}"
            async with Wire(scene.url) as wire:
                await wire.ask(f"/block/{shared_listener}")
                await until(partial(_has_begun, scene, shared_listener), "no worker blocks")
                crowd = {"close": dice.randint(6, 24)}
                async with load_on(scene.url, crowd, dice.getrandbits(32)) as load:
                    await load.each(ANSWERS)
                    seen = await load.stop()  # which waits for the last of them
                assert seen.failures == {}
                scene.program.write(shared_listener)
                await wire.response()
            await scene.go_on()
    scene.assert_nothing_lost()


async def test_who_is_stopped_alone_hangs_and_who_pauses_with_all_does_not(
    tmp_path: Path, dice: Random
) -> None:
    """With a hang_timeout that both exceed: the one is replaced, of the others nobody is."""
    async with under_load(tmp_path, dice, hang_timeout=HANG_TIMEOUT) as scene:
        before = scene.pids_started()
        everybody = scene.everybody()
        suspend(everybody)
        await paused(PAUSE)
        resume(everybody)
        await scene.go_on()
        assert scene.pids_started() == before

        victim = dice.choice(scene.workers())
        scene.killed.add(victim.pid)
        suspend([victim])
        await until(lambda: not is_running(victim), "it lives on")
        await scene.go_on()
        assert len(scene.pids_started() - before) == 1
    scene.assert_lost_only_in(scene.killed)


async def test_stopped_workers_lose_nothing(tmp_path: Path, dice: Random) -> None:
    """SIGSTOP and SIGCONT of some workers, but not of all."""
    async with under_load(tmp_path, dice) as scene:
        for _ in range(ROUNDS):
            workers = scene.workers()
            some = dice.sample(workers, dice.randint(1, len(workers) - 1))
            suspend(some)
            await scene.load.some(ANSWERS)
            resume(some)
            await scene.go_on()
    scene.assert_nothing_lost()


@pytest.mark.parametrize("who", ["primary", "zygote", "everybody"])
async def test_a_pause_kills_nobody_and_loses_nothing(
    tmp_path: Path, dice: Random, who: str
) -> None:
    """As when a laptop sleeps or a container is frozen: the same workers go on afterwards."""
    async with under_load(tmp_path, dice) as scene:
        before = scene.pids_started()
        for _ in range(ROUNDS):
            stopped = _processes(scene)[who]
            suspend(stopped)
            await paused(dice.random())
            dice.shuffle(stopped)
            resume(stopped)
            await scene.go_on()
        assert scene.pids_started() == before
    scene.assert_nothing_lost()


def _has_begun(scene: Scene, token: str) -> bool:
    return token in scene.begun()


def _processes(scene: Scene) -> dict[str, list[psutil.Process]]:
    everybody = scene.everybody()
    return {"primary": everybody[:1], "zygote": scene.zygotes(), "everybody": everybody}
