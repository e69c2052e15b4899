"""A pytest plugin: what aiohttp's tests use as its server and its handler are ours.

Loaded before any test, so whatever imports the two names gets ours. The outcome of each test is
written to the file that CONFORMANCE_OUTCOMES names, as JSON: its id, and whether it failed.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from aiocluster.config.settings import settings_from
from aiocluster.worker.accept.capacity import AcceptCapacity
from aiocluster.worker.http import metered_server
from aiocluster.worker.http.metered_server import MeteredHandler, MeteredServer

_ROW_FIELDS = 16

_AiohttpServer = web.Server


class OurHandler(MeteredHandler):
    """A handler that tests may make by themselves, as they do aiohttp's."""

    def __init__(self, manager: Any, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self.begun_ns = 0
        self.client = None
        self.listener = 0
        self.done = lambda status, begun_ns: None
        self.begin()


class OurServer(MeteredServer):
    """Our server with the signature of aiohttp's."""

    def __init__(self, handler: Any, **options: Any) -> None:
        row = memoryview(bytearray(_ROW_FIELDS * 8)).cast("Q")
        super().__init__(
            _AiohttpServer(handler, **options), row, AcceptCapacity(row, settings_from({}))
        )


def _replace(own: type, ours: type) -> None:
    """Let every name of aiohttp's modules that means `own` mean `ours`."""
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] == "aiohttp":
            for key, value in [*vars(module).items()]:
                if value is own:
                    setattr(module, key, ours)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ["CONFORMANCE_CLASSES"] == "our":
        import aiohttp.pytest_plugin  # noqa: F401  so that its names are replaced too

        _replace(_AiohttpServer, OurServer)
        _replace(RequestHandler, OurHandler)
        metered_server.MeteredHandler = OurHandler  # type: ignore[misc]


_outcomes: dict[str, bool] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # Set up, called, torn down: a test fails if it fails in one of them.
    _outcomes[report.nodeid] = _outcomes.get(report.nodeid, False) or report.failed


def pytest_sessionfinish(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        Path(os.environ["CONFORMANCE_OUTCOMES"]).write_text(json.dumps(_outcomes))
