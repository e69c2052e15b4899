"""The comparison itself, with tests of ours in the place of aiohttp's."""

from pathlib import Path

import aiohttp
import pytest

from tests.conformance import __main__ as script

SAME = """
from aiohttp import web

async def test_served(aiohttp_client):
    async def answer(request):
        return web.Response(text="hello")
    app = web.Application()
    app.router.add_get("/", answer)
    client = await aiohttp_client(app)
    assert await (await client.get("/")).text() == "hello"

def test_that_fails_anyway():
    assert False
"""

DIFFERENT = """
from aiohttp import web_protocol, web_server

def test_server():
    assert web_server.Server.__name__ == "Server"

def test_handler():
    assert web_protocol.RequestHandler.__name__ == "RequestHandler"
"""


@pytest.fixture
def sdist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(script, "_NEEDED", {})
    for folder in ("tests", "aiohttp"):
        (tmp_path / folder).mkdir()
    (tmp_path / "aiohttp/__init__.py").write_text(f'__version__ = "{aiohttp.__version__}"\n')
    (tmp_path / "tests/conftest.py").write_text('pytest_plugins = ["aiohttp.pytest_plugin"]\n')
    (tmp_path / "tests/test_web_server.py").write_text(SAME)
    return tmp_path


def test_equal_outcomes_are_no_difference(sdist: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A test that fails with aiohttp's classes as well does not count."""
    assert script.main([str(sdist)]) == 0

    summary = capfd.readouterr().out.splitlines()[-1]
    assert summary.startswith("2 tests: 1 fail with aiohttp's classes, 1 with ours; 0 unexpected")


def test_a_test_that_fails_with_our_classes_only_is_named(
    sdist: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is expected to fail is named too, and does not count."""
    (sdist / "tests/test_web_server.py").write_text(DIFFERENT)
    name = "tests/test_web_server.py::test_{}"
    monkeypatch.setattr(script, "_EXPECTED", {name.format("handler"): "has a reason"})

    assert script.main([str(sdist)]) == 1

    output = capfd.readouterr().out
    assert f"with our classes only: {name.format('server')} fails (unexpected)" in output
    assert f"with our classes only: {name.format('handler')} fails (has a reason)" in output
    assert output.splitlines()[-1].endswith("2 with ours; 1 unexpected differences")


def test_what_cannot_run_is_said(
    sdist: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sdist, another version, a package that is missing."""
    assert script.main([]) == 2
    assert script.main([str(sdist / "tests")]) == 2
    assert "is no unpacked sdist of aiohttp" in capfd.readouterr().err

    monkeypatch.setattr(script, "_NEEDED", {"missing_module": "missing-package"})
    assert script.main([str(sdist)]) == 2
    assert "pip install missing-package" in capfd.readouterr().err

    (sdist / "aiohttp/__init__.py").write_text('__version__ = "1.0"\n')
    assert script.main([str(sdist)]) == 2
    assert f"is not of aiohttp {aiohttp.__version__}" in capfd.readouterr().err
