"""Workers told to drain under load: what they had open goes on elsewhere."""

from pathlib import Path
from random import Random

from tests.chaos.scene import ANSWERS, SCALE, program_of, under_load

ROUNDS = 3 * SCALE

DRAINING = """
import asyncio
from random import Random

async def drain_one_after_the_other(cluster):
    await tell(cluster)
    dice = Random({seed})
    async for event in cluster.events():
        if isinstance(event, aiocluster.WorkerListening):
            await asyncio.sleep(dice.random() / 4)
            await dice.choice([*cluster.workers.values()]).drain()
"""


async def test_drains_asked_for_by_the_program_lose_nothing(tmp_path: Path, dice: Random) -> None:
    """on_start drains a worker, any of them, whenever another has come."""
    more = DRAINING.format(seed=dice.getrandbits(32))
    program = program_of(tmp_path, more=more, on_start="drain_one_after_the_other")
    async with under_load(tmp_path, dice, program=program) as scene:
        scene.workers()[0].terminate()
        for _ in range(ROUNDS):
            await scene.load.each(ANSWERS)
    scene.assert_nothing_lost()
