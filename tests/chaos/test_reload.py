"""Reloads under load lose not one request, whatever kind it is."""

import signal
from pathlib import Path
from random import Random

from tests.chaos.deploys import deploy, deployed, hup, shop, versions
from tests.chaos.scene import SCALE, Scene

ROUNDS = 3 * SCALE

# A reload waits for this long at least, twice; what it is for is shown with bad deploys.
MIN_UPTIME = 0.1


def assert_clients_saw_nothing(scene: Scene) -> None:
    """Nothing lost; and nobody was told more than that a server restarts, if it could not move.

    That is so of WebSockets; and of a pipeline that was cut within a head, when its connection
    is not provably between two requests.
    """
    scene.assert_nothing_lost()
    assert set(scene.seen.told) <= {"WebSocket closed with 1012", "pipelined behind a last answer"}


async def test_reloads_by_signal_are_seen_by_no_client(tmp_path: Path, dice: Random) -> None:
    """HUP, again and again: each time all workers are new, and run the new code."""
    async with deployed(tmp_path, dice, min_uptime=MIN_UPTIME) as scene:
        for version in range(2, 2 + ROUNDS):
            scene.program.write("shop.py", shop(version))
            await hup(scene)
            assert await versions(scene) == {str(version)}
            await scene.go_on()
    assert_clients_saw_nothing(scene)


async def test_reloads_by_the_program_are_seen_by_no_client(tmp_path: Path, dice: Random) -> None:
    """reload() returns when the new code serves."""
    async with deployed(tmp_path, dice, min_uptime=MIN_UPTIME) as scene:
        for version in range(2, 2 + ROUNDS):
            assert await deploy(scene, shop(version)) == "ok"
            assert await versions(scene) == {str(version)}
            await scene.go_on()
    assert_clients_saw_nothing(scene)


async def test_reloads_asked_for_at_once_are_seen_by_no_client(
    tmp_path: Path, dice: Random
) -> None:
    """Signals that come while a reload runs make one more of it, not several at a time."""
    async with deployed(tmp_path, dice, min_uptime=MIN_UPTIME) as scene:
        for version in range(2, 2 + ROUNDS):
            for _ in range(dice.randint(1, 3)):
                scene.program.send_signal(dice.choice((signal.SIGHUP, signal.SIGUSR2)))
            assert await deploy(scene, shop(version)) == "ok"
            await scene.go_on()
            assert await versions(scene) == {str(version)}
    assert_clients_saw_nothing(scene)


async def test_kills_during_a_reload_lose_only_what_they_took(tmp_path: Path, dice: Random) -> None:
    """Workers and zygotes, of the old generation or the new: the reload ends all the same."""
    async with deployed(tmp_path, dice, min_uptime=MIN_UPTIME) as scene:
        for _ in range(ROUNDS):
            scene.program.send_signal(signal.SIGHUP)
            scene.kill(dice.choice((scene.some_workers, scene.zygotes))())
            await scene.go_on()
        # One of its workers may have been killed, and its reload given up; the next is well.
        assert await deploy(scene, shop(2)) == "ok"
        assert await versions(scene) == {"2"}
    scene.assert_lost_only_in(scene.killed)
