"""An app's own options of aiohttp's request handler."""

import logging
from typing import Any

import pytest
from aiohttp import web

from aiocluster.worker.http.handler_options import usable_options
from tests.support.stage import MakeStage, response


def make(*, known: int = 0, other: int = 0) -> None:
    """Be what makes a handler."""
    if not isinstance(known, int):
        raise TypeError(f"known must be an int, not {known!r}")


def test_options_that_are_taken_stay_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    """And there is nothing to say."""
    assert usable_options({"known": 1, "other": 2}, make) == {"known": 1, "other": 2}
    assert usable_options({}, make) == {}
    assert caplog.text == ""


@pytest.mark.parametrize("value", ["x", None])
def test_all_that_is_refused_is_named_in_one_warning(
    caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    """An unknown name and a value of the wrong type alike; the rest takes effect."""
    options = {"unknown": 1, "known": value, "other": 2, "loop_": 3}

    assert usable_options(options, make) == {"other": 2}

    (record,) = caplog.records
    message = record.getMessage()
    assert "ignored unknown, known, loop_: " in message
    assert f"known must be an int, not {value!r}" in message


async def test_an_app_with_unknown_options_is_served_with_its_others(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """They take the place of settings, as under aiohttp's runner; one warning for all requests."""

    seen: list[float] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.protocol.keepalive_timeout)
        return web.Response()

    app = web.Application(handler_args={"keepalive_timeout": 7, "manager": 1, "typo": 2})
    app.router.add_get("/", answer)
    stage = await make_stage(app, keepalive_timeout=5, max_field_size=1000)
    for field_size, status in ((10, "200 OK"), (2000, "400 Bad Request")):
        reader, writer = await stage.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"x" * field_size))
        assert status in await response(reader)
    assert seen == [7]

    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "ignored manager, typo: " in record.getMessage()
    await stage.drain(0.0)
