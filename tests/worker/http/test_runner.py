"""aiohttp's runner with the settings of the cluster."""

import logging

import pytest

from tests.support.stage import App, MakeStage, get, response


async def test_the_access_log_is_off_unless_asked_for(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """Logging each request costs more than serving it."""
    caplog.set_level(logging.INFO, "aiohttp.access")
    silent = await make_stage(App().application)
    await response((await get(silent))[0])
    assert caplog.text == ""
    loud = await make_stage(App().application, access_log=True, access_log_format="%r %s")

    await response((await get(loud))[0])

    assert "GET / HTTP/1.1 200" in caplog.text
    await silent.drain(0.0)
    await loud.drain(0.0)


async def test_settings_reach_aiohttp(make_stage: MakeStage) -> None:
    """A limit that the user sets is the one that holds."""
    stage = await make_stage(App().application, max_line_size=100)
    reader, _ = await get(stage, "/" + "x" * 200)

    assert "400 Bad Request" in await response(reader)

    await stage.drain(0.0)
