"""What runs out under load: descriptors, and room for the log."""

from pathlib import Path
from random import Random

import pytest

from tests.chaos.scene import ANSWERS, CONNECTIONS, SCALE, program_of, under_load

ROUNDS = 3 * SCALE
LIMIT = 64
CROWD = dict.fromkeys(CONNECTIONS, 30)  # together about twice what three workers have room for


async def test_more_clients_than_descriptors_all_get_their_turn(
    tmp_path: Path, dice: Random
) -> None:
    """The kernel's backlog holds those that no worker has room for, until others leave."""
    program = program_of(tmp_path, command=f"ulimit -n {LIMIT}; exec {{}}")
    async with under_load(tmp_path, dice, connections=CROWD, lives=10, program=program) as scene:
        await scene.load.each(ROUNDS * ANSWERS)
        output = scene.program.output
    assert "connections lost" not in output
    scene.assert_nothing_lost()


@pytest.mark.parametrize("output", [">/dev/full 2>&1", ">&- 2>&-"])
async def test_a_full_disk_for_the_log_changes_nothing(
    tmp_path: Path, dice: Random, output: str
) -> None:
    """Every request and every death would be logged, and cannot be."""
    program = program_of(tmp_path, command=f"exec {{}} {output}", access_log=True)
    async with under_load(tmp_path, dice, program=program) as scene:
        for _ in range(ROUNDS):
            scene.kill(scene.some_workers())
            await scene.go_on()
    scene.assert_lost_only_in(scene.killed)
