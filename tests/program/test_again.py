"""What starts the next zygote of a program, and what is said where nothing can."""

import pytest

from aiocluster.config.roles import plan_from
from aiocluster.launch.interpreter import InterpreterSpec
from aiocluster.program.again import interpreters_of, log_what_will_not_work


@pytest.fixture(autouse=True)
def _all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


def print_nothing() -> None: ...


def interpreters(again: InterpreterSpec, app: object) -> list[InterpreterSpec]:
    """Return what would start the next zygote of a program, closed."""
    plan = plan_from(app, None, {})
    found = [*interpreters_of(plan, again).values()]
    log_what_will_not_work(found, again)
    for one in found:
        one.close()
    return found


def test_an_object_is_made_by_the_program_and_an_import_string_needs_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While the program can be run again."""
    again = InterpreterSpec(["python", "app.py"])
    assert [one.arguments for one in interpreters(again, lambda: None)] == [["python", "app.py"]]
    assert "zygote_of_a_program" in interpreters(again, "pkg:name")[0].arguments[-1]
    assert "again" not in caplog.text


def test_what_a_program_that_cannot_be_run_again_cannot_do_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An upgrade; and where the app cannot be had without it, a reload and a new zygote."""
    again = InterpreterSpec(["python"], refusal="it was typed")
    assert [one.refusal for one in interpreters(again, "pkg:name")] == [""]
    assert [one.refusal for one in interpreters(again, print_nothing)] == [""]
    assert "an upgrade is not possible" in caplog.text
    assert "WARNING" not in caplog.text

    (one,) = interpreters(again, lambda: None)
    assert one.refusal.startswith("it was typed; other processes cannot import <function")
    assert "a reload and an upgrade will fail" in caplog.text
