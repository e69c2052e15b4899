"""New interpreters that import or unpickle the app without the program.

They inherit the descriptor of a file in memory, from which they read their task.
"""

import io
import multiprocessing.process
import multiprocessing.spawn
import os
import pickle
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec
from aiohttp import web

from aiocluster import beginning
from aiocluster.config.kinds import check_app
from aiocluster.config.roles import RoleSpec
from aiocluster.errors import BootError, ConfigError
from aiocluster.launch.interpreter import InterpreterSpec
from aiocluster.launch.links import FolderLink, link_of, renewed, through
from aiocluster.launch.this_program import current_folder, is_same, links
from aiocluster.private_apis import as_a_child_of_multiprocessing, interpreter_flags
from aiocluster.shortage import shortage

# The function that such an interpreter calls with its descriptor, for a Cluster inside a program.
OF_A_CLUSTER = "aiocluster.children.start:unpickled_zygote"

# The keys of multiprocessing's data for its children that name the main module.
_MAIN = ("init_main_from_name", "init_main_from_path")


@dataclass(frozen=True, slots=True)
class Preparation:
    """The folder, sys.path, sys.argv and main module that a new interpreter needs for the app."""

    data: dict[str, Any]  # as multiprocessing passes it to its children
    links: list[FolderLink]
    python: tuple[int, int]

    def enter(self) -> None:
        """Enter the folder through its link, and search modules as the program did."""
        os.chdir(self.data["dir"])
        path = [renewed(entry, self.links, os.path.realpath) for entry in self.data["sys_path"]]
        folder = {**self.data, "dir": os.getcwd(), "sys_path": self._of_this_python(path)}
        multiprocessing.spawn.prepare({k: v for k, v in folder.items() if k not in _MAIN})

    def import_main(self) -> None:
        """Import the program's main module, which has the app, as __mp_main__."""
        found = {key: self.data[key] for key in _MAIN if key in self.data}
        if "init_main_from_path" in found:
            path = found["init_main_from_path"]
            found["init_main_from_path"] = renewed(path, self.links, os.path.realpath)
        # As in multiprocessing's own children: if the import starts another process, since the
        # module has no `if __name__` guard, the error shows the guard to write.
        with as_a_child_of_multiprocessing():
            multiprocessing.spawn.prepare(found)

    def _of_this_python(self, path: list[str]) -> list[str]:
        """Return a search path without the entries of another Python, and with all of this one."""
        if self.python != sys.version_info[:2]:
            old = "python{}.{}".format(*self.python), "python{}{}.zip".format(*self.python)
            path = [entry for entry in path if not {*old} & {*entry.split("/")}]
        own = sys.path[1:] if sys.path[:1] == [""] else sys.path
        return [*path, *(entry for entry in own if entry not in path)]


def unpickling(spec: RoleSpec, main: str = OF_A_CLUSTER) -> InterpreterSpec:
    """Return an interpreter that imports or unpickles the app of a role, and calls `main`.

    ConfigError if the app cannot be pickled, BootError if the kernel refuses the file for it.
    """
    check_app(spec)
    pickled = _pickled(spec.app)
    of_main = b"__main__" in pickled or b"__mp_main__" in pickled
    preparation = _preparation(spec.settings.chdir, with_main=of_main or main == OF_A_CLUSTER)
    # Only the primary uses a policy or an autoscale function, so they need not be picklable.
    chdir = preparation.data["dir"] if spec.settings.chdir else None
    settings = msgspec.structs.replace(
        spec.settings, policy="round_robin", autoscale=None, chdir=chdir
    )
    bare = msgspec.structs.replace(spec, app=None, settings=settings)
    fd = _file_with(pickle.dumps((preparation, bare, pickled)))
    return InterpreterSpec(
        _command(fd, main, preparation.links), [fd], role=spec.name, own_group=main == OF_A_CLUSTER
    )


def _file_with(content: bytes) -> int:
    try:
        fd = os.memfd_create("aiocluster-app", os.MFD_CLOEXEC)
    except OSError as error:
        raise BootError(shortage(error, "a file in memory (memfd_create)")) from None
    with io.FileIO(fd, "w", closefd=False) as file:
        file.write(content)
    return fd


def _command(fd: int, main: str, found: list[FolderLink]) -> list[str]:
    executable = through(sys.executable, found)
    module, _, name = main.partition(":")
    # The program may have found this package by a path of its own.
    package = through(os.path.dirname(os.path.dirname(beginning.__file__)), found)
    code = f"import sys; sys.path.append({package!r}); from {module} import {name}; {name}({fd})"
    is_there = is_same(executable, sys.executable)
    return [executable if is_there else sys.executable, *interpreter_flags(), "-c", code]


def _preparation(chdir: str | None, *, with_main: bool) -> Preparation:
    """Return multiprocessing's data for its children: sys.path, sys.argv, folder, __main__."""
    try:
        data = multiprocessing.spawn.get_preparation_data("aiocluster-zygote")
        here = current_folder()
    except FileNotFoundError:
        raise ConfigError("the current folder does not exist any more") from None
    # The key cannot be pickled, and only multiprocessing's own connections use it.
    del data["authkey"]
    if not with_main:
        data = {key: value for key, value in data.items() if key not in _MAIN}
    folder = os.path.normpath(os.path.join(here, chdir or ""))
    data["dir"] = folder
    own = link_of(os.path.realpath(folder), folder)
    return Preparation(data, [*links(), *filter(None, [own])], sys.version_info[:2])


def _pickled(app: object) -> bytes:
    if isinstance(app, web.Application):
        raise ConfigError(
            "a Cluster cannot serve a live Application, since its workers are other processes:"
            " pass a factory of it (a function at the top level of a module) or an import"
            " string 'pkg.module:name'; or use aiocluster.run, which can"
        )
    if getattr(app, "__module__", None) == "__main__" and not _can_be_imported_again():
        raise ConfigError(
            f"other processes cannot import {app!r}: it is defined in a program that"
            " has no file of its own to import again (python -c, a notebook, standard input, a"
            " package's __main__); move it to a module and pass it from there, or an import"
            " string 'pkg.module:name'"
        )
    try:
        return pickle.dumps(app)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"other processes cannot import {app!r} ({error}): pass a function defined"
            " at the top level of a module, or an import string 'pkg.module:name'"
        ) from None


def _can_be_imported_again() -> bool:
    """Return True if multiprocessing would find the main module in a new interpreter."""
    main: ModuleType = sys.modules["__main__"]
    name = getattr(main.__spec__, "name", None)
    if name is not None:
        return name != "__main__" and not name.endswith(".__main__")
    return os.path.isfile(getattr(main, "__file__", None) or "")
