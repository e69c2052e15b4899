"""Workers that block, processes that are stopped and go on: clients wait, none is lost."""

from functools import partial
from pathlib import Path
from random import Random

import psutil
import pytest

from tests.chaos.scene import ANSWERS, SCALE, Scene, paused, resume, suspend, under_load
from tests.e2e.wire import Wire
from tests.support.program import until

ROUNDS = 3 * SCALE


async def test_blocked_workers_lose_nothing(tmp_path: Path, dice: Random) -> None:
    """While a worker blocks, others go on; what waits for it is answered when it goes on."""
    async with under_load(tmp_path, dice) as scene:
        for number in range(ROUNDS):
            gate = f"gate{number}"
            async with Wire(scene.url) as wire:
                await wire.ask(f"/block/{gate}")
                await until(partial(_has_begun, scene, gate), "no worker blocks")
                await scene.load.some(ANSWERS)
                scene.program.write(gate)
                assert int((await wire.response()).body) == scene.begun()[gate]
            await scene.go_on()
    scene.assert_nothing_lost()


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
