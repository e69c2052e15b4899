"""Anything at any time: clients lose what a killed worker had, and nothing is left behind.

    AIOCLUSTER_CHAOS_SCALE=20 pytest -s tests/chaos/test_harm.py

does 1,000 actions; with -s it tells the figures.
"""

import sys
from pathlib import Path
from random import Random

from tests.chaos.census import Census, taken, unchanged
from tests.chaos.harm import ON_START, SCALING, as_ordinary_user, do_some
from tests.chaos.scene import SCALE, Scene, loaded, program_of
from tests.support.program import Program

ACTIONS = 50 * SCALE

# What the second half may add to the primary: allocators take memory in steps.
_MAX_GROWTH_MIB = 2.0


async def test_random_actions_leave_nothing(tmp_path: Path, dice: Random) -> None:
    """The same processes and descriptors as after the first of them, and no more memory."""
    shell = " ".join(["exec", *as_ordinary_user(), "{}"])
    settings = {"min_uptime": 0.1}
    program = program_of(tmp_path, command=shell, more=SCALING, on_start=ON_START, **settings)
    async with program:
        scene = await harmed(program, dice, ACTIONS // 5)
        before = await taken(scene)
        scene = await harmed(program, dice, ACTIONS * 2 // 5)
        half = await unchanged(scene, before)
        scene = await harmed(program, dice, ACTIONS * 2 // 5)
        after = await unchanged(scene, before)
        tell(before, half, after)
        assert after.primary_mib - half.primary_mib < _MAX_GROWTH_MIB
        assert await program.stop() == 0
        assert program.left_behind() == []


async def harmed(program: Program, dice: Random, count: int) -> Scene:
    """Do so many actions under load."""
    async with loaded(program, dice) as scene:
        await scene.go_on()
        await do_some(scene, count)
        await scene.end_load()
    sys.stdout.write(f"{scene.seen.answered}, lost {scene.seen.failures}\n")
    scene.assert_lost_only_in(scene.killed)
    return scene


def tell(*censuses: Census) -> None:
    for when, census in zip(("before", "half way", "after"), censuses, strict=True):
        sys.stdout.write(f"{ACTIONS} actions, {when}: {census}\n")
