"""Run aiohttp's own server tests with its classes and with ours, and report the difference.

    python -m tests.conformance FOLDER [OPTION OF PYTEST ...]

FOLDER is an unpacked sdist of the aiohttp version that is installed:

    pip download --no-deps --no-binary aiohttp aiohttp==3.14.5
    tar xzf aiohttp-3.14.5.tar.gz

The exit code is 0 if each test that passes with aiohttp's Server and RequestHandler passes with
MeteredServer and MeteredHandler in their place, 1 if one does not, 2 if the tests cannot run. A
test that differs runs once more by itself before it counts: some of them depend on the machine's
speed. Beside the package's own test dependencies the tests need what _NEEDED lists.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import aiohttp
import click

# As importable, and as pip knows it.
_NEEDED = {
    "blockbuster": "blockbuster",
    "brotli": "brotli",
    "freezegun": "freezegun",
    "isal": "isal",
    "pytest_mock": "pytest-mock",
    "re_assert": "re-assert",
    "trustme": "trustme",
    "zlib_ng": "zlib-ng",
}

# Those that use a server or its parser; the rest is of the client alone, or measures.
_TESTS = (
    "test_classbasedview.py",
    "test_client_functional.py",
    "test_client_ws_functional.py",
    "test_flowcontrol_streams.py",
    "test_http_parser.py",
    "test_pytest_plugin.py",
    "test_run_app.py",
    "test_test_utils.py",
    "test_urldispatch.py",
    "test_web_*.py",
    "test_websocket_*.py",
)

_CONFIGURATION = """
[pytest]
markers =
    dev_mode
    autobahn
    internal
    skip_blockbuster
addopts = -p no:asyncio -p no:cacheprovider -p tests.conformance.plugin
filterwarnings =
    ignore
"""

_ROOT = Path(__file__).parents[2]

# What asks for what only aiohttp's own class can have, and why. It is reported all the same.
_EXPECTED = {
    "tests/test_web_request_handler.py::test_repr": "expects the name of aiohttp's own class",
}


def main(arguments: list[str]) -> int:
    """Compare; return the exit code."""
    if not arguments:
        click.echo(__doc__)
        return 2
    sdist = Path(arguments[0])
    if problem := _problem(sdist):
        click.echo(problem, err=True)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "sdist"
        # The sdist's own package is not compiled, and must not be what is imported.
        shutil.copytree(sdist, copy, ignore=shutil.ignore_patterns("aiohttp", "*.egg-info"))
        (copy / "pytest.ini").write_text(_CONFIGURATION)
        return _compare(copy, arguments[1:])


def _problem(sdist: Path) -> str | None:
    """Return why the tests cannot run."""
    if not (sdist / "tests" / "test_web_server.py").exists():
        return f"{sdist} is no unpacked sdist of aiohttp: it has no tests/test_web_server.py"
    version = f'__version__ = "{aiohttp.__version__}"'
    if version not in (sdist / "aiohttp" / "__init__.py").read_text():
        return f"{sdist} is not of aiohttp {aiohttp.__version__}, which is installed"
    missing = [pip for module, pip in _NEEDED.items() if not importlib.util.find_spec(module)]
    return f"missing: pip install {' '.join(missing)}" if missing else None


def _compare(sdist: Path, options: list[str]) -> int:
    chosen = [
        str(path.relative_to(sdist))
        for pattern in _TESTS
        for path in sorted((sdist / "tests").glob(pattern))
    ]
    own = _run("aiohttp's", sdist, chosen, options)
    ours = _run("our", sdist, chosen, options)
    suspects = [test for test, failed in ours.items() if failed and not own.get(test, True)]
    differing = [test for test in suspects if _differs(sdist, test)]
    not_run = [test for test in own if test not in ours]
    unexpected = [test for test in differing if test not in _EXPECTED] + not_run
    for test in [*differing, *not_run]:
        click.echo(f"with our classes only: {test} fails ({_EXPECTED.get(test, 'unexpected')})")
    click.echo(
        f"{len(ours)} tests: {sum(own.values())} fail with aiohttp's classes,"
        f" {sum(ours.values())} with ours; {len(unexpected)} unexpected differences"
    )
    return int(bool(unexpected) or not ours)


def _differs(sdist: Path, test: str) -> bool:
    """Does it fail with our classes and pass with aiohttp's, when nothing else runs?"""
    own, ours = (_run(classes, sdist, [test], []) for classes in ("aiohttp's", "our"))
    return any(ours.values()) and not any(own.values())


def _run(classes: str, sdist: Path, chosen: list[str], options: list[str]) -> dict[str, bool]:
    """Run tests with these classes; return of each whether it failed."""
    outcomes = sdist / "outcomes.json"
    outcomes.unlink(missing_ok=True)
    # A pytest that finds another one's PYTEST_XDIST_* takes itself for a worker of that one.
    own = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {
        **own,
        "CONFORMANCE_CLASSES": classes,
        "CONFORMANCE_OUTCOMES": str(outcomes),
        "PYTHONPATH": str(_ROOT),
    }
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", *options, *chosen]
    click.echo(f"--- with {classes} classes")
    subprocess.run(command, cwd=sdist, env=environment, check=False)
    if not outcomes.exists():  # pytest has said why
        sys.exit(2)
    found: dict[str, bool] = json.loads(outcomes.read_text())
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
