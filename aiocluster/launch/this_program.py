"""Runs this program again, with the command line and in the folder of its start.

Some programs cannot be run again. A program from standard input is gone. A process that was forked
by another one, or started by multiprocessing, has the command line of its parent, which would do
all that the parent does. In these cases an error says so, and no other program is run instead.
"""

import multiprocessing.process
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from aiocluster import beginning
from aiocluster.launch.command_line import Source, Started, started_with
from aiocluster.launch.interpreter import InterpreterSpec
from aiocluster.launch.links import FolderLink, link_of, through

# A flag of the kernel in /proc/PID/stat: the process was forked, and has executed nothing since.
_FORKED = 0x40


@dataclass(frozen=True, slots=True)
class Beginning:
    """The start of this process, as far as it is known."""

    arguments: list[str]
    executable: str
    main_file: str  # the file of the module __main__; "" if it has none
    main_module: str  # the name of the module __main__, if it was run with -m
    folder: str  # the real path of the current folder when aiocluster was imported
    first_of_path: str
    shell_folder: (
        str  # $PWD: the same folder, as the shell calls it, unless the program has left it
    )
    parents: str = ""  # why the command line is its parent's, or ""

    @classmethod
    def of_this_process(cls) -> "Beginning":
        """Return the start of this process."""
        main = sys.modules["__main__"]
        return cls(
            arguments=[*sys.orig_argv],
            executable=sys.executable or "",
            main_file=getattr(main, "__file__", None) or "",
            main_module=getattr(getattr(main, "__spec__", None), "name", None) or "",
            folder=beginning.FOLDER,
            first_of_path=beginning.FIRST_OF_PATH,
            shell_folder=os.environ.get("PWD", ""),
            parents=_why_the_parents(),
        )


def this_program(call: int = 1, began: Beginning | None = None) -> InterpreterSpec:
    """Return the interpreter that runs this program again; its `call`-th `run` becomes the zygote.

    If that is not possible, the interpreter has a `refusal`.
    """
    began = began or Beginning.of_this_process()
    started = started_with(began.arguments)
    folder = through(start_folder(began, is_same), links(began))
    arguments = [_executable(began), *began.arguments[1:]]
    refusal = _refusal(began, started)
    if not refusal and started.source is Source.SCRIPT:
        script = _script(began, arguments[started.place], folder)
        arguments[started.place], refusal = script or "", "" if script else _no_file(arguments)
    return InterpreterSpec(arguments, call=call, folder=folder or None, refusal=refusal)


def start_folder(began: Beginning, is_same: Callable[[str, str], bool]) -> str:
    """Return the folder in which the program was started, through the links of the shell's path.

    "" if it is not known.
    """
    real = _real_start(began)
    if os.path.isabs(began.shell_folder) and is_same(began.shell_folder, real):
        return began.shell_folder
    return real


def _real_start(began: Beginning) -> str:
    started = started_with(began.arguments)
    if started.source is Source.SCRIPT:
        # Python has made the name absolute at its start.
        end = "/" + began.arguments[started.place]
        if began.main_file.startswith("/") and began.main_file.endswith(end):
            return began.main_file.removesuffix(end) or "/"
    if started.source is Source.MODULE and began.first_of_path == _root_of_main(began):
        return began.first_of_path
    return began.folder


def _root_of_main(began: Beginning) -> str | None:
    """Return the folder in which the module that was run with -m was found."""
    end = "/" + began.main_module.replace(".", "/") + ".py"
    return began.main_file.removesuffix(end) if began.main_file.endswith(end) else None


def links(began: Beginning | None = None) -> list[FolderLink]:
    """Return the links by which the program was found: of its folder, and of its file."""
    began = began or Beginning.of_this_process()
    folder = start_folder(began, is_same)
    found = [link_of(_real_start(began), folder)]
    started = started_with(began.arguments)
    if started.source is Source.SCRIPT and not began.parents:
        place = os.path.dirname(os.path.join(folder, began.arguments[started.place]))
        found.append(link_of(os.path.realpath(place), os.path.normpath(place)))
    return [link for link in found if link is not None]


def current_folder() -> str:
    """Return the current folder, through the links by which the program was found."""
    real, shells = os.getcwd(), os.environ.get("PWD", "")
    if os.path.isabs(shells) and is_same(shells, real):
        return shells
    return through(real, links())


def is_same(one: str, other: str) -> bool:
    """Return True if two paths lead to one folder or file, which exists."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _script(began: Beginning, name: str, folder: str) -> str | None:
    """Return the path of the script, from its folder; None if the script is gone."""
    path = os.path.join(folder, name)
    main = os.path.join(path, "__main__.py") if os.path.isdir(path) else path
    is_known = os.path.isfile(began.main_file)  # a file in an archive does not count
    if os.path.isfile(main) and (not is_known or is_same(main, began.main_file)):
        return name
    return began.main_file if is_known else None


def _executable(began: Beginning) -> str:
    path = through(began.executable, links(began))
    return path if is_same(path, began.executable) else began.executable


def _no_file(arguments: list[str]) -> str:
    return f"it was read from something that is not a file: {' '.join(arguments[1:])}"


def _refusal(began: Beginning, started: Started) -> str:
    if began.parents:
        return began.parents
    if not began.executable:
        return "its interpreter is part of another program"
    if started.source is Source.STDIN:
        return "it was read from standard input"
    return ""


def _why_the_parents() -> str:
    if multiprocessing.process.parent_process() is not None:
        return "multiprocessing has started it, as a part of another program"
    is_forked = os.getpid() != beginning.PID or _is_forked()
    return "it was forked from another program" if is_forked else ""


def _is_forked() -> bool:
    try:
        with open("/proc/self/stat") as file:
            # The name, in parentheses, may have any characters.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return False
    return bool(int(fields[6]) & _FORKED)
