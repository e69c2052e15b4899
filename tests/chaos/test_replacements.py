"""Workers that are replaced in good order, under load: not one request is lost."""

from pathlib import Path
from random import Random

from tests.chaos.scene import SCALE, under_load

ROUNDS = 3 * SCALE


async def test_max_requests_lose_nothing(tmp_path: Path, dice: Random) -> None:
    """Every few hundred requests another worker comes and an old one goes."""
    async with under_load(tmp_path, dice, max_requests=300, max_requests_jitter=100) as scene:
        first = scene.pids_started()
        for _ in range(ROUNDS):
            await scene.go_on()
        assert scene.pids_started() > first
    scene.assert_nothing_lost()
