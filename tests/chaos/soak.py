"""Reloads under a load of one kind: how many requests, how many lost. A soak, by flag only.

    AIOCLUSTER_CHAOS_SCALE=100 pytest -s tests/chaos/soak.py

With that each mode has 100,000 requests and more, those that take long a tenth, over 10 reloads.
"""

from pathlib import Path
from random import Random

import pytest

from tests.chaos.deploys import deploy, deployed, shop, versions
from tests.chaos.scene import CONNECTIONS, SCALE
from tests.chaos.test_reload import assert_clients_saw_nothing

REQUESTS = 1000 * SCALE
RELOADS = min(2 * SCALE, 10)
# What takes long for one request.
_SHARES = {"slow": 0.1, "websocket": 0.1}
# More than two for each worker of either generation.
_CONNECTIONS = 16


@pytest.mark.parametrize("mode", CONNECTIONS)
async def test_no_mode_loses_a_request_in_reloads(tmp_path: Path, dice: Random, mode: str) -> None:
    """The requests are spread evenly over the reloads, and go on during each."""
    share = int(REQUESTS * _SHARES.get(mode, 1.0) / RELOADS) + 1
    connections = {mode: _CONNECTIONS}
    async with deployed(tmp_path, dice, connections=connections, min_uptime=0.1) as scene:
        for version in range(2, 2 + RELOADS):
            assert await deploy(scene, shop(version)) == "ok"
            assert await versions(scene) == {str(version)}
            await scene.load.some(share)
    seen = scene.seen.modes[mode]
    print(  # noqa: T201 (the figures are what a soak is for)
        f"\n{mode}: {seen['answered']} answered on {seen['connections']} connections,"
        f" {RELOADS} reloads, lost {sum(seen['failures'].values())}, told {seen['told']},"
        f" p99 {seen['p99'] * 1e3:.1f} ms, longest gap {seen['longest_gap'] * 1e3:.0f} ms"
    )
    assert_clients_saw_nothing(scene)
