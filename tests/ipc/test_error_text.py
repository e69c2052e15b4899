import importlib
import sys
from pathlib import Path

import pytest

from aiocluster.config.target import import_target
from aiocluster.errors import ConfigError
from aiocluster.ipc.error_text import MAX_CAUSE_CHARS, MAX_TRACEBACK_CHARS, describe


def raised_by(source: str, folder: Path) -> BaseException:
    """Import a user's module as we do, and return what that raised."""
    (folder / "broken_app.py").write_text(source)
    importlib.invalidate_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, "broken_app", raising=False)
        try:
            import_target("broken_app:app")
        except BaseException as error:
            # Without this frame, it is as a zygote or a worker catches it.
            here = error.__traceback__
            return error.with_traceback(here and here.tb_next)
        finally:
            sys.modules.pop("broken_app", None)
    raise AssertionError("it was imported")


def test_the_traceback_begins_in_the_users_code(tmp_path: Path) -> None:
    """Whoever must mend it sees no frame that is ours or the import system's."""
    source = "def connect():\n    raise OSError('no database')\n\nconnect()\n"

    cause, traceback = describe(raised_by(source, tmp_path))

    assert cause == "OSError: no database"
    first, second, *_ = [line for line in traceback.splitlines() if line.startswith("  File")]
    assert first == f'  File "{tmp_path}/broken_app.py", line 4, in <module>'
    assert second == f'  File "{tmp_path}/broken_app.py", line 2, in connect'
    assert "importlib" not in traceback
    assert "aiocluster" not in traceback
    assert traceback.endswith("OSError: no database\n")


def test_frames_below_the_users_code_stay(tmp_path: Path) -> None:
    """What the user's code called is part of the story, also when it is the import system."""
    source = "import importlib\nimportlib.import_module('no_such_module_at_all')\n"

    cause, traceback = describe(raised_by(source, tmp_path))

    assert cause == "ModuleNotFoundError: No module named 'no_such_module_at_all'"
    assert "importlib.import_module('no_such_module_at_all')" in traceback
    assert "in import_module" in traceback


def test_a_syntax_error_says_which_line(tmp_path: Path) -> None:
    """Its cause is the error, its text shows the place."""
    cause, traceback = describe(raised_by("x = 1\ndef (:\n", tmp_path))

    assert cause == "SyntaxError: invalid syntax"
    assert f'File "{tmp_path}/broken_app.py", line 2' in traceback
    assert "def (:" in traceback


def test_the_error_behind_an_error_is_told(tmp_path: Path) -> None:
    """The chain of causes is kept."""
    source = "try:\n    {}['key']\nexcept KeyError as e:\n    raise ValueError('bad') from e\n"

    cause, traceback = describe(raised_by(source, tmp_path))

    assert cause == "ValueError: bad"
    assert "KeyError: 'key'" in traceback
    assert "direct cause" in traceback


def test_a_config_error_needs_no_traceback() -> None:
    """It says all there is to say."""
    with pytest.raises(ConfigError) as caught:
        import_target("no_such_module_at_all:app")

    assert describe(caught.value) == (str(caught.value), "")


def test_an_error_without_a_traceback_is_described_too() -> None:
    """It may never have been raised."""
    assert describe(ValueError("bad")) == ("ValueError: bad", "ValueError: bad\n")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError(), "ValueError"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("first\nsecond\n  third"), "ValueError: first"),
        (ValueError("\nsecond"), "ValueError: "),
        (ConfigError("two\nlines"), "two\nlines"),
        (ExceptionGroup("both", [ValueError("a"), OSError("b")]), None),
    ],
    ids=repr,
)
def test_the_cause_is_the_first_line_of_the_error(error: BaseException, cause: str | None) -> None:
    """One line that names what happened."""
    assert describe(error)[0] == (cause or "ExceptionGroup: both (2 sub-exceptions)")


def test_notes_are_in_the_text_and_not_the_cause() -> None:
    """A note adds to an error; it does not replace it."""
    error = ValueError("bad")
    error.add_note("while reading the menu")

    cause, traceback = describe(error)

    assert cause == "ValueError: bad"
    assert "while reading the menu" in traceback


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


def test_an_error_that_cannot_be_printed_is_still_described() -> None:
    """A broken exception does not break the report of it."""
    assert "Unprintable" in describe(Unprintable())[0]


@pytest.mark.parametrize("make", [ValueError, ConfigError])
def test_an_endless_error_is_cut(make: type[Exception]) -> None:
    """Cause and traceback fit into one packet."""
    cause, traceback = describe(make("x" * 1_000_000))

    assert len(cause) == MAX_CAUSE_CHARS
    assert len(traceback) <= MAX_TRACEBACK_CHARS


def test_of_an_endless_traceback_the_end_is_kept() -> None:
    """The last lines are those that say what happened."""
    error = ValueError("the point")
    for _ in range(2000):
        error.add_note("x" * 100)
    error.add_note("the end")

    _, traceback = describe(error)

    assert len(traceback) == MAX_TRACEBACK_CHARS
    assert traceback.endswith("the end\n")


@pytest.mark.parametrize("make", [ValueError, ConfigError])
def test_undecodable_file_names_can_be_told(make: type[Exception]) -> None:
    """A path that is no UTF-8 reaches Python as lone surrogates, which no wire carries."""
    cause, traceback = describe(make("no file b\udcff.txt"))

    assert "no file b\\udcff.txt" in cause
    (cause + traceback).encode()
