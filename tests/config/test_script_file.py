"""What counts as a script, and what is said of one that is not there."""

import os
import sys
import zipfile
from pathlib import Path

import pytest

from aiocluster.config.script import Script
from aiocluster.config.script_file import check_script, is_script, path_of, put_on_path
from aiocluster.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/where/the/command/is", "/lib"])
    (tmp_path / "server.py").write_text("")
    (tmp_path / "serve").write_text("")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text("")
    (tmp_path / "bare").mkdir()
    with zipfile.ZipFile(tmp_path / "app.pyz", "w") as archive:
        archive.writestr("__main__.py", "")
    return tmp_path


@pytest.mark.parametrize(
    "target", ["server.py", "./server.py", "serve", "app", "app/", "app.pyz", "none.py", "a/b"]
)
def test_a_path_is_a_script(target: str) -> None:
    """By its ending, or since there is such a file: Python runs all of these."""
    assert is_script(target)


@pytest.mark.parametrize("target", ["server:app", "pkg.server:app.inner", "server", "none", ""])
def test_an_import_string_is_none(target: str) -> None:
    """A module is named without its file's ending."""
    assert not is_script(target)


@pytest.mark.parametrize("path", ["server.py", "serve", "app", "app.pyz"])
def test_one_that_can_be_run_is_taken(path: str) -> None:
    """A folder or an archive that has a __main__.py too."""
    check_script(path)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("none.py", "'none.py': there is no such file"),
        ("bare", "'bare' is a folder, and has no __main__.py to run"),
        ("./server.py:app", "give the script, ./server.py, or a name in it, server:app"),
    ],
)
def test_one_that_cannot_be_run_is_told(path: str, text: str) -> None:
    """With what may have been meant."""
    with pytest.raises(ConfigError) as caught:
        check_script(path)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("path", "entry"), [("server.py", ""), ("app", "app"), ("app.pyz", "app.pyz")]
)
def test_it_imports_what_lies_beside_it(folder: Path, path: str, entry: str) -> None:
    """In the place of the command's own folder, as under Python; asked twice, it is there once."""
    put_on_path(Script(path))
    put_on_path(Script(path))
    assert sys.path == [os.path.join(folder, entry).rstrip("/"), "/lib"]


def test_a_link_is_followed(folder: Path) -> None:
    """As Python does: the modules lie beside the real file."""
    (folder / "bin").mkdir()
    (folder / "bin" / "start.py").symlink_to(folder / "server.py")
    put_on_path(Script("bin/start.py"))
    assert sys.path[0] == str(folder)


def test_a_relative_path_is_of_the_folder_in_which_it_was_typed() -> None:
    """The process may enter another; an absolute path needs none."""
    assert path_of(Script("bin/start.py", folder="/srv/shop")) == "/srv/shop/bin/start.py"
    assert path_of(Script("/opt/start.py", folder="/srv/shop")) == "/opt/start.py"
    assert path_of(Script("start.py")) == os.path.abspath("start.py")
