"""QUIT is quick, but not an error by itself."""

import signal
from pathlib import Path

from tests.e2e.stop.test_stop_has_a_deadline import LONG, SOURCE
from tests.support.program import Program
from tests.support.wire import Wire


async def test_quit_with_nothing_to_cut_is_a_clean_end(tmp_path: Path) -> None:
    """QUIT of an idle service, with an idle client, is exit code 0."""
    async with Program(tmp_path, SOURCE.format(graceful_timeout=LONG)) as program:
        async with Wire(await program.url()) as idle:
            assert (await idle.get("/nowhere")).status == 404
            assert await program.stop(signal.SIGQUIT) == 0
        assert program.left_behind() == []
