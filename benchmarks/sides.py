"""How each side is started: the same app, as many workers, no access log, 75 s of keep-alive.

Where a side can be set up as the others are, it is; everything else is its default. Each function
takes the number of workers. Who is not installed is left out of the run, with a note.
"""

import importlib
import importlib.util
import shutil
import sys
from pathlib import Path

from benchmarks.harness import HOST, Side

HELLO = "benchmarks.apps.hello:make_app"
NODE_APPS = Path(__file__).resolve().parent / "apps" / "node"
# aiohttp's own default for a server behind nothing; gunicorn's is 2 s, which its page on
# keep-alive calls too short for clients that stay.
KEEP_ALIVE = "75"


def aiocluster(workers: int, app: str = HELLO) -> Side:
    """The default settings, metrics on."""
    return Side(
        name="aiocluster",
        origin="pip install aiocluster",
        installed=has_aiocluster(),
        command=lambda port: [
            *(sys.executable, "-m", "benchmarks.apps.serve"),
            *(app, str(workers), f"{HOST}:{port}"),
        ],
    )


def gunicorn(workers: int, app: str = HELLO, *, preload: bool = False) -> Side:
    """aiohttp's own worker for gunicorn, on uvloop."""
    return Side(
        name="gunicorn --preload" if preload else "gunicorn",
        origin="pip install gunicorn aiohttp uvloop",
        installed=_has_modules("gunicorn", "aiohttp", "uvloop"),
        command=lambda port: [
            *(sys.executable, "-m", "gunicorn", "--worker-class"),
            *("aiohttp.GunicornUVLoopWebWorker", "--workers", str(workers)),
            *("--bind", f"{HOST}:{port}", "--keep-alive", KEEP_ALIVE, "--log-level", "warning"),
            *_gunicorn_control(),
            *(["--preload"] if preload else []),
            app,
        ],
    )


def uvicorn(workers: int) -> Side:
    """uvicorn's own supervisor; it serves ASGI, so the app is the hello app written for ASGI."""
    return Side(
        name="uvicorn",
        origin="pip install uvicorn uvloop",
        installed=_has_modules("uvicorn", "uvloop"),
        command=lambda port: [
            *(sys.executable, "-m", "uvicorn", "--workers", str(workers), "--host", HOST),
            *("--port", str(port), "--loop", "uvloop", "--timeout-keep-alive", KEEP_ALIVE),
            *("--no-access-log", "--log-level", "warning", "benchmarks.apps.hello_asgi:app"),
        ],
    )


def node(workers: int, *, slow: bool = False) -> Side:
    """Node's cluster module, round robin, forking again when a worker exits."""
    return Side(
        name="Node cluster",
        origin="apt install nodejs",
        installed=has_node(),
        command=lambda port: [
            *("node", str(NODE_APPS / "cluster.js"), str(workers), str(port)),
            *([str(NODE_APPS / "slow.js")] if slow else []),
        ],
    )


def has_node() -> bool:
    return shutil.which("node") is not None


def has_aiocluster() -> bool:
    """Not only the folder: `run` must be there."""
    try:
        return hasattr(importlib.import_module("aiocluster"), "run")
    except ImportError:
        return False


def _has_modules(*names: str) -> bool:
    return all(importlib.util.find_spec(name) for name in names)


def _gunicorn_control() -> list[str]:
    """Off where there is one: it is a file in the user's home, and two servers would share it."""
    from gunicorn.config import KNOWN_SETTINGS

    known = {setting.name for setting in KNOWN_SETTINGS}
    return ["--no-control-socket"] if "control_socket_disable" in known else []
