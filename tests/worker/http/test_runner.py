"""aiohttp's runner with the settings of the cluster."""

import logging

import pytest

from aiocluster.config.settings import settings_from
from aiocluster.worker.http import runner as module
from aiocluster.worker.http.aiohttp_internals import LIMITS_HEADERS, shown_version
from aiocluster.worker.http.runner import notes
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


def test_nothing_is_said_of_a_known_aiohttp_and_of_defaults() -> None:
    """Each that is tested here is known, and no default asks for what it does not have."""
    assert [*notes(settings_from({}))] == []


def test_a_setting_that_this_aiohttp_does_not_have_is_named() -> None:
    """With its value, and the version that has it."""
    said = [*notes(settings_from({"max_headers": 20, "max_line_size": 100}))]

    if LIMITS_HEADERS:
        assert said == []
    else:
        (sentence,) = said
        assert f"max_headers=20 has no effect on {shown_version()}" in sentence
        assert "aiohttp 3.13.4" in sentence


def test_a_setting_that_no_range_has_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later aiohttp may have dropped it."""
    monkeypatch.setattr(module, "refused_options", lambda options: ["lingering_time"])

    (sentence,) = notes(settings_from({"lingering_time": 1.0}))

    assert "lingering_time=1.0 has no effect" in sentence
    assert [*notes(settings_from({}))] == []


def test_an_unknown_aiohttp_is_named_with_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with what is missing in it, and what to do."""
    monkeypatch.setattr(module, "UNKNOWN", [f"no RequestHandler.{name}" for name in "abcde"])

    (sentence,) = notes(settings_from({}))

    assert f"{shown_version()} is not known" in sentence
    assert "no RequestHandler.a, no RequestHandler.b, no RequestHandler.c, and 2 more" in sentence
    assert "do not move" in sentence
    assert "aiohttp 3.10 to 3.14" in sentence
