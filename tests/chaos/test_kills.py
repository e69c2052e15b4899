"""SIGKILL under load: what had begun in the killed worker is lost, and nothing else."""

from pathlib import Path
from random import Random

from tests.chaos.scene import SCALE, under_load

ROUNDS = 3 * SCALE


async def test_killed_workers_lose_only_what_they_had_taken(tmp_path: Path, dice: Random) -> None:
    """Any number of workers at once, again and again; nobody is refused, none waits for ever."""
    async with under_load(tmp_path, dice) as scene:
        for _ in range(ROUNDS):
            scene.kill(scene.some_workers())
            await scene.go_on()
    scene.assert_lost_only_in(scene.killed)


async def test_killed_zygotes_lose_nothing(tmp_path: Path, dice: Random) -> None:
    """Workers serve on without the process that forked them, and another takes its place."""
    async with under_load(tmp_path, dice) as scene:
        for _ in range(ROUNDS):
            scene.kill(scene.zygotes())
            await scene.go_on()
    scene.assert_nothing_lost()


async def test_zygote_and_workers_killed_at_once_come_back(tmp_path: Path, dice: Random) -> None:
    """In any order; a new zygote forks what is missing, and clients wait in the backlog."""
    async with under_load(tmp_path, dice) as scene:
        for _ in range(ROUNDS):
            victims = [*scene.zygotes(), *scene.some_workers()]
            dice.shuffle(victims)
            scene.kill(victims)
            await scene.go_on()
    scene.assert_lost_only_in(scene.killed)
