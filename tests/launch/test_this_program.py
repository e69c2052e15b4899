"""This program once more: its command line, its folder, and when it cannot be run again."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from aiocluster.launch.links import FolderLink
from aiocluster.launch.this_program import (
    Beginning,
    current_folder,
    is_same,
    links,
    start_folder,
    this_program,
)

PYTHON = sys.executable


class Deployed:
    """A release behind the link `current`, and programs that were started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.release, self.current = folder / "releases" / "7", folder / "current"
        (self.release / "pkg").mkdir(parents=True)
        (self.release / "app.py").touch()
        (self.release / "pkg" / "__main__.py").touch()
        self.current.symlink_to("releases/7")

    def began(self, *arguments: str, **more: Any) -> Beginning:
        """Say how a program was started in `current`, with these arguments."""
        given = {
            "arguments": [PYTHON, *arguments],
            "executable": PYTHON,
            "main_file": str(self.release / "app.py"),
            "main_module": "",
            "folder": str(self.release),
            "first_of_path": str(self.release),
            "shell_folder": str(self.current),
        }
        return Beginning(**{**given, **more})

    def link(self) -> FolderLink:
        return FolderLink(str(self.release), str(self.current))


@pytest.fixture
def deployed(tmp_path: Path) -> Deployed:
    return Deployed(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [["app.py", "serve"], ["-X", "dev", "-O", "app.py", "app.py"], ["-c", "pass"], ["-m", "pkg"]],
)
def test_it_is_run_as_it_was_started(deployed: Deployed, arguments: list[str]) -> None:
    """The same options and arguments, in the same folder, by the shell's name for that."""
    again = this_program(3, deployed.began(*arguments))

    assert again.arguments == [PYTHON, *arguments]
    assert (again.folder, again.call, again.refusal) == (str(deployed.current), 3, "")


def test_a_script_s_folder_is_known_though_the_program_has_left_it(deployed: Deployed) -> None:
    """Python has noted the whole path of the file when it began."""
    again = this_program(1, deployed.began("app.py", folder="/", first_of_path="/"))

    assert (again.arguments[1], again.folder) == ("app.py", str(deployed.current))


def test_a_module_s_folder_is_known_though_the_program_has_left_it(deployed: Deployed) -> None:
    """It is the first of sys.path, where the module was found."""
    main = str(deployed.release / "pkg" / "__main__.py")
    began = deployed.began("-m", "pkg", main_file=main, main_module="pkg.__main__", folder="/")

    assert this_program(1, began).folder == str(deployed.current)
    installed = deployed.began("-m", "pip", main_file="/lib/pip/__main__.py", folder="/tmp")
    assert start_folder(installed, lambda one, other: False) == "/tmp"


def test_a_shell_s_name_for_another_folder_is_not_believed(deployed: Deployed) -> None:
    """A program may have been started in a folder that its shell never was in."""
    began = deployed.began("app.py", shell_folder=str(deployed.folder))
    assert this_program(1, began).folder == str(deployed.release)
    assert start_folder(deployed.began("app.py", shell_folder="."), is_same) == str(
        deployed.release
    )


def test_a_script_that_is_elsewhere_is_found_by_its_whole_path(deployed: Deployed) -> None:
    """Where the folder is not known, the name alone might be another file."""
    other = deployed.folder / "app.py"
    other.touch()
    began = deployed.began("app.py", main_file=str(other), shell_folder="")

    assert this_program(1, began).folder == str(deployed.folder)
    began = deployed.began("./app.py", main_file=str(other), shell_folder="")
    assert this_program(1, began).arguments[1] == str(other)


def test_the_interpreter_is_found_through_the_link(deployed: Deployed) -> None:
    """The next release may bring another."""
    (deployed.release / "python").symlink_to(PYTHON)
    executable = str(deployed.release / "python")

    again = this_program(1, deployed.began("app.py", executable=executable))
    assert again.arguments[0] == str(deployed.current / "python")


def test_a_script_s_own_link_counts_wherever_it_was_started(deployed: Deployed) -> None:
    """`python /srv/current/app.py`, from any folder."""
    script = str(deployed.current / "app.py")
    began = deployed.began(script, folder="/", main_file=script, shell_folder="/")

    assert links(began) == [deployed.link()]
    assert this_program(1, began).arguments == [PYTHON, script]
    # A service manager has entered the folder, and has told nobody by which name.
    began = deployed.began(script, main_file=script, shell_folder="")
    assert this_program(1, began).folder == str(deployed.current)
    assert links(deployed.began("app.py")) == [deployed.link()] * 2


def test_a_folder_and_an_archive_can_be_run_again(deployed: Deployed) -> None:
    """`python app.pyz`, whose main module is no file, and `python pkg`, whose is in the folder."""
    (deployed.release / "app.pyz").touch()
    archive = deployed.began("app.pyz", main_file=str(deployed.release / "app.pyz/__main__.py"))
    folder = deployed.began("pkg", main_file=str(deployed.release / "pkg/__main__.py"))

    for began, name in ((archive, "app.pyz"), (folder, "pkg")):
        again = this_program(1, began)
        assert (again.arguments[1], again.folder) == (name, str(deployed.current))


@pytest.mark.parametrize(
    ("arguments", "more", "reason"),
    [
        (["-"], {}, "it was read from standard input"),
        ([], {"main_file": ""}, "it was read from standard input"),
        (
            ["pipe"],
            {"main_file": "/srv/pipe"},
            "it was read from something that is not a file: pipe",
        ),
        (
            ["gone.py"],
            {"main_file": "/gone.py"},
            "it was read from something that is not a file: gone.py",
        ),
        (["app.py"], {"parents": "it was forked"}, "it was forked"),
        (["app.py"], {"executable": ""}, "its interpreter is part of another program"),
    ],
)
def test_what_cannot_be_run_again_says_why(
    deployed: Deployed, arguments: list[str], more: dict[str, str], reason: str
) -> None:
    """Nothing else is run in its place."""
    os.mkfifo(deployed.release / "pipe")  # as `python <(command)` has it
    assert this_program(1, deployed.began(*arguments, **more)).refusal.startswith(reason)


def test_a_process_that_was_forked_knows_it() -> None:
    """Its command line is its parent's, which would do all that the parent does."""
    assert "forked" not in Beginning.of_this_process().parents
    ours, theirs = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(theirs, Beginning.of_this_process().parents.encode())
        os._exit(0)
    os.close(theirs)
    with open(ours) as told:
        assert told.read() == "it was forked from another program"
    os.waitpid(pid, 0)


def test_the_current_folder_is_named_as_the_shell_does(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process knows the real path alone."""
    monkeypatch.chdir(deployed.current)
    monkeypatch.setenv("PWD", str(deployed.current))
    assert current_folder() == str(deployed.current)
    monkeypatch.setenv("PWD", "/")
    assert current_folder() == str(deployed.release)
