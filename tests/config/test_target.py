import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiocluster.config.target import check_module, check_target, import_target
from aiocluster.errors import ConfigError

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write the user's modules into a folder on the path; forget them afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)

    def write(path: str, source: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_whether_there_is_a_module_is_seen_without_an_import(write: Write) -> None:
    """As far as that goes: a package is not imported to look into it."""
    write("shop/__init__.py", "1 / 0")
    check_module("shop.web:app")
    check_module("__main__:app")

    with pytest.raises(ConfigError, match=r"^on_start 'nix.web:f': there is no module 'nix' on th"):
        check_module("nix.web:f", "on_start")


@pytest.mark.parametrize(
    ("text", "module", "name"),
    [
        ("web:app", "web", "app"),
        ("shop.web.main:make_app", "shop.web.main", "make_app"),
        ("web:factories.small", "web", "factories.small"),
        ("_web2:_app_2", "_web2", "_app_2"),
        ("bücher:größe", "bücher", "größe"),
    ],
)
def test_an_import_string_is_a_module_and_a_name(text: str, module: str, name: str) -> None:
    """Both may have dots."""
    assert check_target(text) == (module, name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "web",
        "web:",
        ":app",
        "web.py",
        "shop/web.py:app",
        "web:app:more",
        "web:make_app()",
        "web: app",
        " web:app",
        "web:app ",
        "web:app\n",
        ".web:app",
        "shop..web:app",
        "shop.:app",
        "web:.app",
        "web:app.",
        "2web:app",
        "web:2app",
        "my-web:app",
    ],
)
def test_what_is_no_import_string_is_refused(text: str) -> None:
    """The error shows what was given, and the form that is wanted."""
    with pytest.raises(ConfigError) as caught:
        check_target(text)
    assert str(caught.value) == f"app {text!r} is not of the form 'pkg.module:name'"

    with pytest.raises(ConfigError):
        import_target(text)


def test_the_object_is_returned_as_it_is(write: Write) -> None:
    """The very object of the module: it is not called or copied here."""
    write("target_web.py", "app = object()\n")

    assert import_target("target_web:app") is sys.modules["target_web"].app


def test_a_module_may_be_deep_in_a_package(write: Write) -> None:
    """With or without __init__.py."""
    write("target_shop/web/main.py", "app = 'the app'\n")

    assert import_target("target_shop.web.main:app") == "the app"


def test_a_name_may_go_deeper(write: Write) -> None:
    """Dots after the colon are attributes."""
    write("target_deep.py", "class factories:\n    class small:\n        app = 'small'\n")

    assert import_target("target_deep:factories.small.app") == "small"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("target_nowhere:app", "target_nowhere"),
        ("target_nowhere.web:app", "target_nowhere"),
        ("target_here.nowhere:app", "target_here.nowhere"),
        ("target_here.nowhere.web:app", "target_here.nowhere"),
        ("target_here.web.nowhere:app", "target_here.web.nowhere"),
    ],
)
def test_a_module_that_is_not_there_is_named(write: Write, text: str, missing: str) -> None:
    """A misspelt part is found at once, whichever part it is."""
    write("target_here/__init__.py", "")
    write("target_here/web.py", "app = 1\n")

    with pytest.raises(ConfigError) as caught:
        import_target(text)

    assert str(caught.value) == f"app {text!r}: there is no module {missing!r} on the path"


@pytest.mark.parametrize("name", ["ap", "app.deeper", "App"])
def test_a_name_that_is_not_there_is_named(write: Write, name: str) -> None:
    """The module was found: the error says so."""
    write("target_names.py", "app = 1\n")

    with pytest.raises(ConfigError) as caught:
        import_target(f"target_names:{name}")

    assert f"module 'target_names' has no '{name}'" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import target_missing_dependency\n", ModuleNotFoundError),
        ("import target_user.sibling\n", ModuleNotFoundError),
        ("from json import no_such_name\n", ImportError),
        ("def (:\n", SyntaxError),
        ("1 / 0\n", ZeroDivisionError),
        ("{}.nothing\n", AttributeError),
        ("raise SystemExit(3)\n", SystemExit),
        ("raise KeyboardInterrupt\n", KeyboardInterrupt),
    ],
)
def test_what_the_module_raises_comes_through(
    write: Write, source: str, error: type[BaseException]
) -> None:
    """It is the user's error, with the user's traceback, and not taken for a misspelt app."""
    write("target_user/__init__.py", "")
    write("target_user/web.py", source)

    with pytest.raises(error) as caught:
        import_target("target_user.web:app")

    assert not isinstance(caught.value, ConfigError)
