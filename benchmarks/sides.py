"""How each side is started: the same app, as many workers, no access log, 75 s of keep-alive.

Where a side can be set up as the others are, it is; everything else is its default. Each function
takes the number of workers. Who is not installed is left out of the run, with a note.
"""

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import HOST, Side

HELLO = "benchmarks.apps.hello:make_app"
HELLO_ASGI = "benchmarks.apps.hello_asgi:app"
WORK = "benchmarks.apps.work:make_app"
WORK_ASGI = "benchmarks.apps.work_asgi:app"
NODE_APPS = Path(__file__).resolve().parent / "apps" / "node"
# aiohttp's own default for a server behind nothing; gunicorn's is 2 s, which its page on
# keep-alive calls too short for clients that stay.
KEEP_ALIVE = "75"


def aiocluster(
    workers: int, app: str = HELLO, *, policy: str = "", max_connections: int | None = None
) -> Side:
    """The default settings, metrics on; or another policy, or a limit."""
    others = {"policy": policy, "max_connections": max_connections}
    settings = {name: value for name, value in others.items() if value}
    return Side(
        name=f"aiocluster {policy}".strip(),
        origin="pip install aiocluster",
        installed=has_aiocluster(),
        command=lambda port: [
            *(sys.executable, "-m", "benchmarks.apps.serve"),
            *(app, str(workers), f"{HOST}:{port}"),
            *([json.dumps(settings)] if settings else []),
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


def uvicorn(workers: int, app: str = HELLO_ASGI) -> Side:
    """uvicorn's own supervisor; it serves ASGI, so the app is the hello app written for ASGI."""
    return Side(
        name="uvicorn",
        origin="pip install uvicorn uvloop",
        installed=_has_modules("uvicorn", "uvloop"),
        command=lambda port: [
            *(sys.executable, "-m", "uvicorn", "--workers", str(workers), "--host", HOST),
            *("--port", str(port), "--loop", "uvloop", "--timeout-keep-alive", KEEP_ALIVE),
            *("--no-access-log", "--log-level", "warning", app),
        ],
    )


def granian(workers: int, app: str = HELLO_ASGI) -> Side:
    """granian, told to replace a worker that dies, which it does not by default."""
    return Side(
        name="granian",
        origin="pip install granian uvloop",
        installed=_has_modules("granian", "uvloop"),
        command=lambda port: [
            *(sys.executable, "-m", "granian", "--interface", "asgi", "--host", HOST),
            *("--port", str(port), "--workers", str(workers), "--loop", "uvloop"),
            *("--respawn-failed-workers", "--log-level", "warning", app),
        ],
    )


def hypercorn(workers: int, app: str = HELLO_ASGI) -> Side:
    """hypercorn on uvloop."""
    return Side(
        name="hypercorn",
        origin="pip install hypercorn uvloop",
        installed=_has_modules("hypercorn", "uvloop"),
        command=lambda port: [
            *(sys.executable, "-m", "hypercorn", "--worker-class", "uvloop"),
            *("--workers", str(workers), "--bind", f"{HOST}:{port}"),
            *("--keep-alive", KEEP_ALIVE, "--log-level", "WARNING", app),
        ],
    )


def pm2(workers: int, home: Path) -> Side:
    """PM2 in cluster mode, in the foreground; `home` is the folder that `install_pm2` filled."""
    return Side(
        name="PM2",
        origin="apt install nodejs npm",
        installed=pm2_program(home).exists(),
        env={"PM2_HOME": str(home / "run")},
        command=lambda port: [
            *("env", f"PORT={port}", str(pm2_program(home).with_name("pm2-runtime"))),
            *("start", str(NODE_APPS / "token.js"), "-i", str(workers)),
        ],
    )


def install_pm2(home: Path) -> None:
    """Install PM2 into this folder alone, if npm can."""
    if has_node() and shutil.which("npm"):
        command = ["npm", "install", "--silent", "--no-fund", "--prefix", str(home), "pm2"]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def pm2_program(home: Path) -> Path:
    """Where `pm2` is once it is installed."""
    return home / "node_modules" / ".bin" / "pm2"


def node(workers: int, *, slow: bool = False, max_connections: int | None = None) -> Side:
    """Node's cluster module, round robin, forking again when a worker exits."""
    return Side(
        name="Node cluster",
        origin="apt install nodejs",
        installed=has_node(),
        env={"MAX_CONNECTIONS": str(max_connections)} if max_connections else {},
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
