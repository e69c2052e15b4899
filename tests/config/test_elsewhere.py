import re
import sys
from pathlib import Path

import pytest

import aiocluster
from aiocluster.config.autoscale import Autoscale
from aiocluster.config.elsewhere import (
    KEPT,
    ignored_settings,
    on_linux,
    one_process_warning,
    system_name,
)
from aiocluster.config.roles import Role, plan_from
from aiocluster.config.settings import Settings

PAGES = Path(aiocluster.__file__).parent / "docs"


def test_the_system_is_the_one_that_python_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux, and nowhere else, there are workers."""
    assert on_linux()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert (on_linux(), system_name()) == (False, "macOS")
    monkeypatch.setattr(sys, "platform", "win32")
    assert (on_linux(), system_name()) == (False, "Windows")
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert (on_linux(), system_name()) == (False, "freebsd14")


def test_what_was_given_and_has_no_effect_is_named() -> None:
    """Nothing that was given is dropped in silence."""
    scale = Autoscale(1, 4)
    plan = plan_from("pkg:app", None, {"workers": 4, "autoscale": scale, "graceful_timeout": 5.0})
    assert ignored_settings(plan) == {"workers": 4, "autoscale": scale}
    text = one_process_warning("macOS", plan)
    assert text.startswith("macOS is not Linux: everything runs in this one process")
    assert "without effect here: workers=4, autoscale=Autoscale(" in text


def test_what_has_its_default_is_not_named() -> None:
    """The warning of an app that asks for nothing unusual is short."""
    plan = plan_from("pkg:app", None, {"workers": "auto", "bind": ":8080", "access_log": True})
    assert ignored_settings(plan) == {}
    assert "without effect" not in one_process_warning("macOS", plan)


def test_several_roles_are_named_with_their_settings() -> None:
    """What one role was given is told apart from what another was given."""
    roles = {
        "web": Role("pkg:app", bind=":80", policy="sticky"),
        "jobs": Role("pkg:job", workers=2),
    }
    text = one_process_warning("Windows", plan_from(None, roles, {}))
    assert "the roles web, jobs share this process" in text
    assert "without effect here: web.policy='sticky', jobs.workers=2" in text


def test_the_settings_that_are_kept_exist() -> None:
    """A setting that is renamed is renamed here too."""
    assert {*Settings.__struct_fields__} >= KEPT


def test_the_manual_names_the_settings_that_are_kept() -> None:
    """A setting that holds in one process stands in the manual's list, and no other does."""
    page = (PAGES / "elsewhere-than-linux.md").read_text()
    (listed,) = re.findall(
        r"^These settings hold: (.*?)\. Roles share", page, re.DOTALL | re.MULTILINE
    )
    assert {*re.findall(r"`(\w+)`", listed)} - {"shutdown_timeout"} == KEPT
