"""An interpreter that looks as if it ran on a Mac, or on Windows.

    pretend("darwin")        # in a process of its own, before aiocluster is imported

What a system lacks is not listed here: typeshed, which comes with mypy, has each name of the
standard library under a condition on `sys.platform`. So `sys.platform` is set, and every name is
taken out of the standard library that typeshed has for Linux and not for the other system. The
modules that are imported before, and are not ours, keep what they need of Linux.
"""

import ast
import asyncio
import importlib
import selectors
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

# Those that differ from system to system, of all that the package could use.
_MODULES = (
    "ctypes",
    "errno",
    "faulthandler",
    "fcntl",
    "grp",
    "mmap",
    "os",
    "pwd",
    "resource",
    "select",
    "selectors",
    "signal",
    "socket",
    "stat",
    "termios",
    "time",
    "tty",
)

# What stands between the standard library and our own code chooses by the real system.
_IMPORTED_BEFORE = (
    "aiohttp.web",
    "asyncio",
    "click.testing",
    "concurrent.futures.process",
    "ctypes",
    "importlib.metadata",
    "logging.handlers",
    "msgpack",
    "msgspec",
    "multiprocessing.spawn",
    "multiprocessing.util",
    "psutil",
    "shutil",
    "ssl",
    "subprocess",
    "tempfile",
)


def pretend(platform: str) -> None:
    """Make this process look like one on `platform`: "darwin" or "win32"."""
    missing = {name: [*lacking(name, platform)] for name in _MODULES}
    for name in _IMPORTED_BEFORE:
        importlib.import_module(name)
    _keep_the_loop_alive()
    sys.platform = platform
    sys.modules["uvloop"] = None  # type: ignore[assignment] # importing it raises ImportError
    for name, names in missing.items():
        _take_away(name, names)
    _name_the_signals()
    for name in {"cpu_affinity", "memory_full_info"} if platform == "darwin" else {"num_fds"}:
        delattr(importlib.import_module("psutil").Process, name)
    if platform == "win32":
        asyncio.SelectorEventLoop.add_signal_handler = _not_implemented  # type: ignore[assignment]
    sys.addaudithook(_refuse_proc)


def lacking(module: str, platform: str) -> Iterator[str]:
    """Yield what `module` has on Linux and not on `platform`; "*" when it has nothing there."""
    tree = ast.parse(_stub_of(module).read_text())
    here, there = ({*_names(tree.body, system)} for system in ("linux", platform))
    yield from sorted(here - there) if there else "*"


def _stub_of(module: str) -> Path:
    stubs = Path(importlib.import_module("mypy").__file__ or "").parent / "typeshed" / "stdlib"
    file = stubs / f"{module}.pyi"
    return file if file.exists() else stubs / module / "__init__.pyi"


def _names(body: list[ast.stmt], platform: str) -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.If(test=test, body=then, orelse=otherwise):
                yield from _names(then if _holds(test, platform) else otherwise, platform)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name, body=inner):
                yield name
                if any(
                    isinstance(base, ast.Name) and "Enum" in base.id for base in statement.bases
                ):
                    yield from _names(inner, platform)  # its members are names of the module too
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                yield name
            case ast.ImportFrom(names=imported, module=origin) if origin not in _TYPING:
                yield from (alias.asname or alias.name for alias in imported)


_TYPING = {"typing", "typing_extensions", "_typeshed", "types", "builtins", "collections.abc"}


def _holds(test: ast.expr, platform: str) -> bool:
    """Evaluate a condition of a stub: on the system, and on Python's version."""
    system = type("System", (), {"platform": platform, "version_info": sys.version_info})
    return bool(eval(ast.unparse(test), {"sys": system}))


def _take_away(module: str, names: list[str]) -> None:
    if names == ["*"]:
        sys.modules[module] = None  # type: ignore[assignment]
        return
    found = importlib.import_module(module)
    for name in names:
        if not name.startswith("__") and hasattr(found, name):
            delattr(found, name)


def _keep_the_loop_alive() -> None:
    """The real loop goes on underneath, with what each system has; its sockets are Unix ones."""
    selectors.DefaultSelector = selectors.SelectSelector  # type: ignore[misc,assignment]
    pair: Any = partial(socket.socketpair, socket.AF_UNIX)
    socket.socketpair = pair


def _name_the_signals() -> None:
    """Those that have a name are those there are."""
    there = {number for number in vars(signal).values() if isinstance(number, signal.Signals)}
    signal.valid_signals = lambda: there


def _not_implemented(*_: object) -> NoReturn:
    raise NotImplementedError


def _refuse_proc(event: str, arguments: tuple[Any, ...]) -> None:
    if event in {"open", "os.listdir", "os.scandir"} and str(arguments[0]).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", arguments[0])
