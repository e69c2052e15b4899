"""A deploy that cannot boot changes nothing: the old workers go on, and no client sees it."""

from pathlib import Path
from random import Random

import pytest

from tests.chaos.deploys import deploy, deployed, shop, versions

# Long enough for a good version on a busy machine, and the time that a bad one is waited for.
BOOT_TIMEOUT = 12.0

# By when they fail.
BAD_AT_IMPORT = {
    "cannot be parsed": shop(2, before="def"),
    "raises when imported": shop(2, before="raise RuntimeError('bad deploy')"),
    "ends when imported": shop(2, before="import os; os._exit(0)"),
    "has no factory": shop(2, before="").replace("def make_app", "def make_nothing"),
}
BAD_IN_WORKERS = {
    "raises in its factory": shop(2, in_factory="raise RuntimeError('bad deploy')"),
    "crashes in its factory": shop(2, in_factory="os._exit(7)"),
    "crashes once it has started": shop(
        2, at_end="asyncio.get_running_loop().call_later(0.01, os._exit, 7)"
    ),
    "never gets ready": shop(2, in_factory="await asyncio.Event().wait()"),
}


@pytest.mark.parametrize("bad", [BAD_AT_IMPORT, BAD_IN_WORKERS], ids=["import", "workers"])
async def test_bad_deploys_change_nothing(
    tmp_path: Path, dice: Random, bad: dict[str, str]
) -> None:
    """The same workers serve before and after, reload() says why, and a good deploy follows."""
    async with deployed(tmp_path, dice, boot_timeout=BOOT_TIMEOUT) as scene:
        before = {worker.pid for worker in scene.workers()}
        for what, source in bad.items():
            begun = len(scene.program.lines)
            outcome = await deploy(scene, source)
            assert outcome != "ok", what
            if "bad deploy" in source:
                assert "bad deploy" in outcome
                await scene.program.line("bad deploy", after=begun)
            await scene.go_on()
            assert {worker.pid for worker in scene.workers()} == before, what
            assert await versions(scene) == {"1"}, what
        assert await deploy(scene, shop(3)) == "ok"
        await scene.go_on()
        assert await versions(scene) == {"3"}
    scene.assert_nothing_lost()


async def test_a_program_that_cannot_run_again_changes_nothing(
    tmp_path: Path, dice: Random
) -> None:
    """Not the app's module but the program's own file is broken."""
    async with deployed(tmp_path, dice) as scene:
        before = {worker.pid for worker in scene.workers()}
        good = (tmp_path / "program.py").read_text()
        assert await deploy(scene, "raise RuntimeError('bad deploy')", "program.py") != "ok"
        await scene.go_on()
        assert {worker.pid for worker in scene.workers()} == before
        assert await deploy(scene, good, "program.py") == "ok"
        await scene.go_on()
    scene.assert_nothing_lost()
