"""Workers that accept by themselves lose no more than those that are handed connections."""

from pathlib import Path
from random import Random

from tests.chaos.deploys import deployed, hup, shop, versions
from tests.chaos.scene import ANSWERS, SCALE, under_load

ROUNDS = 3 * SCALE


async def test_reloads_are_seen_by_no_client(tmp_path: Path, dice: Random) -> None:
    """Old workers stop accepting, idle connections move, and new ones begin when admitted."""
    async with deployed(tmp_path, dice, min_uptime=0.1, policy="shared") as scene:
        for version in range(2, 2 + ROUNDS):
            scene.program.write("shop.py", shop(version))
            await hup(scene)
            assert await versions(scene) == {str(version)}
            await scene.go_on()
    scene.assert_nothing_lost()


async def test_killed_workers_lose_only_what_they_had_taken(tmp_path: Path, dice: Random) -> None:
    """Any number at once: a wake-up that died with its worker is made up for by another."""
    async with under_load(tmp_path, dice, policy="shared") as scene:
        for _ in range(ROUNDS):
            scene.kill(scene.some_workers())
            await scene.go_on()
    scene.assert_lost_only_in(scene.killed)


async def test_drains_lose_nothing(tmp_path: Path, dice: Random) -> None:
    """TERM to one worker after the other."""
    async with under_load(tmp_path, dice, policy="shared") as scene:
        for _ in range(ROUNDS):
            dice.choice(scene.workers()).terminate()
            await scene.load.each(ANSWERS)
            await scene.complete()
    scene.assert_nothing_lost()
