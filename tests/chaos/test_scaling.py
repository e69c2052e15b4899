"""More workers and fewer under load lose not one request, whatever kind it is."""

import asyncio
import signal
from pathlib import Path
from random import Random

import pytest

from tests.chaos.scene import SCALE, Scene, program_of, under_load
from tests.chaos.test_reload import assert_clients_saw_nothing
from tests.support.program import until

ROUNDS = SCALE

# From one worker to eight and back, at once and step by step.
UP_AND_DOWN = ("8", "1", "3", "+5", "-4", "-3", "2", "1", "4")

_SCALING = """
import asyncio, os

async def scale_when_asked(cluster):
    await tell(cluster)
    number = 0
    while True:
        while not os.path.exists(f"scale{number}"):
            await asyncio.sleep(0.01)
        with open(f"scale{number}") as file:
            wanted = file.read()
        count = await cluster.scale(wanted if wanted[0] in "+-" else int(wanted))
        with open("scaled.new", "w") as file:
            file.write(str(count))
        os.rename("scaled.new", f"scaled{number}")
        number += 1
"""


async def has_workers(scene: Scene, count: int) -> None:
    """Wait until the dead are replaced."""
    await until(lambda: len(scene.workers()) == count, f"there are not {count} workers")


async def scale(scene: Scene, wanted: str) -> int:
    """Ask for so many workers; return how many there are when they have come, or gone."""
    number = len([*scene.program.folder.glob("scale[0-9]*")])
    (scene.program.folder / "scale.new").write_text(wanted)
    (scene.program.folder / "scale.new").rename(scene.program.folder / f"scale{number}")
    done = scene.program.folder / f"scaled{number}"
    await until(done.exists, f"the scaling to {wanted} has not ended")
    return int(done.read_text())


@pytest.mark.parametrize("policy", ["round_robin", "least_loaded", "shared"])
async def test_scaling_up_and_down_is_seen_by_no_client(
    tmp_path: Path, dice: Random, policy: str
) -> None:
    """One to eight to one, while every mode asks on and on."""
    program = program_of(tmp_path, more=_SCALING, on_start="scale_when_asked", policy=policy)
    async with under_load(tmp_path, dice, program=program) as scene:
        for _ in range(ROUNDS):
            for wanted in UP_AND_DOWN:
                count = await scale(scene, wanted)
                assert len(scene.workers()) == count, wanted
                await scene.load.each(10)
        await scale(scene, "3")
        await scene.go_on()
    assert_clients_saw_nothing(scene)


async def test_scaling_by_signals_is_seen_by_no_client(tmp_path: Path, dice: Random) -> None:
    """In any order, while others drain or boot."""
    async with under_load(tmp_path, dice) as scene:
        for _ in range(3 * ROUNDS):
            for number in dice.choices((signal.SIGTTIN, signal.SIGTTOU), k=6):
                scene.program.send_signal(number)
                await scene.load.some(5)
            for _ in range(3):
                scene.program.send_signal(signal.SIGTTIN)
                await scene.load.each(1)
            await scene.go_on()
    assert_clients_saw_nothing(scene)


async def test_kills_while_scaling_lose_only_what_they_took(tmp_path: Path, dice: Random) -> None:
    """Of those that come, go and stay; the number is right in the end."""
    program = program_of(tmp_path, more=_SCALING, on_start="scale_when_asked")
    async with under_load(tmp_path, dice, program=program) as scene:
        for wanted in ("6", "2", "5", "3") * ROUNDS:
            before = {worker.pid for worker in scene.workers()}
            scaling = asyncio.create_task(scale(scene, wanted))
            await scene.load.some(20)
            # One that dies before it is ready would make the scaling fail, as it should.
            scene.kill([dice.choice([one for one in scene.workers() if one.pid in before])])
            assert await scaling == int(wanted)
            await has_workers(scene, int(wanted))
        await scene.go_on()
    scene.assert_lost_only_in(scene.killed)
