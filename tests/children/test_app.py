"""How the app of a role is loaded, and from which folder."""

import os
import sys
from pathlib import Path

import pytest

from aiocluster.children.app import enter_folder, imported_from
from aiocluster.config.roles import RoleSpec
from aiocluster.config.settings import settings_from
from aiocluster.errors import ConfigError


def test_where_the_app_was_found_is_the_folder_of_its_topmost_package() -> None:
    """By its real path; where there is no file, it is the current folder."""
    root = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
    assert imported_from("tests.children.test_app:app") == root
    assert imported_from("tests.support:app") == root
    assert imported_from("sys:app") == os.getcwd()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """It is the first thing that a zygote needs."""
    spec = RoleSpec("web", "pkg:app", settings_from({"chdir": str(tmp_path / "gone")}))
    with pytest.raises(ConfigError, match=r"app's folder '.*/gone': No such file or directory"):
        enter_folder(spec)


def test_modules_are_found_in_the_folder_of_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its real path, which no later deploy changes."""
    (tmp_path / "release").mkdir()
    (tmp_path / "current").symlink_to("release")
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", [*sys.path])

    enter_folder(RoleSpec("web", "pkg:app", settings_from({"chdir": str(tmp_path / "current")})))

    assert os.getcwd() == sys.path[0] == str(tmp_path / "release")
