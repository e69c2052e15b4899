"""How a script is run, in this process; its module is taken away again."""

import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from aiocluster.config.script import Script
from aiocluster.errors import ConfigError
from aiocluster.zygote.script import no_call, run_script

Run = Callable[..., dict[str, object]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run this text as server.py; return the names of its module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])

    def run(text: str, *arguments: str, path: str = "server.py") -> dict[str, object]:
        Path("server.py").write_text(text)
        run_script(Script(path, arguments))
        return vars(sys.modules["__main__"])

    return run


def test_it_finds_what_it_would_under_python(run: Run, tmp_path: Path) -> None:
    """Its name, file, arguments and folder; and it is the program's main module."""
    names = run("import sys\nargv, path = [*sys.argv], sys.path[0]\n", "--config", "prod.yml")

    assert names["__name__"] == "__main__"
    assert names["__file__"] == str(tmp_path / "server.py")
    assert names["argv"] == ["server.py", "--config", "prod.yml"]
    assert names["path"] == str(tmp_path)
    assert (names["__spec__"], names["__package__"]) == (None, None)


def test_what_it_defines_can_be_pickled(run: Run) -> None:
    """A pool of processes gets its functions by name."""
    names = run("def work(): ...\n")
    assert pickle.loads(pickle.dumps(names["work"])) is names["work"]


def test_what_it_raises_comes_through_with_its_lines(run: Run, tmp_path: Path) -> None:
    """The traceback shows the script's own file."""
    with pytest.raises(ZeroDivisionError) as caught:
        run("\n\n1 / 0\n")
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(tmp_path / "server.py"), 3)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_folder_and_a_zip_file_have_a_main_inside(run: Run, kind: str) -> None:
    """As for Python; it imports what lies beside it there."""
    os.mkdir("app")
    for name, text in {"__main__": "import beside\n", "beside": "value = 7\n"}.items():
        Path("app", f"{name}.py").write_text(text)
    if kind == "zip":
        with zipfile.ZipFile("app.pyz", "w") as archive:
            for name in ("__main__", "beside"):
                archive.write(f"app/{name}.py", f"{name}.py")
    try:
        names = run("", path="app" if kind == "folder" else "app.pyz")
        assert names["beside"].value == 7  # type: ignore[attr-defined]
    finally:
        sys.modules.pop("beside", None)


def test_one_that_is_gone_is_told(run: Run) -> None:
    """It may be deleted between a start and a reload."""
    with pytest.raises(ConfigError, match="there is no such file"):
        run_script(Script("gone.py"))


def test_the_apps_and_factories_that_were_seen_are_named(run: Run) -> None:
    """Whoever wrote none of the two forms sees what could be given."""
    run(
        "from aiohttp import web\n"
        "app = web.Application()\n"
        "def make() -> web.Application: ...\n"
        "async def create_app(): ...\n"
        "def init(argv): ...\n"
        "def other(): ...\n"
    )

    text = str(no_call(Script("server.py")))

    assert "server.py ended without a call of web.run_app; it has app, make, create_app" in text
    assert "give server:app or server:make or server:create_app" in text


def test_one_without_any_says_so(run: Run) -> None:
    """Then there is nothing to give in its place."""
    run("")
    assert str(no_call(Script("a-b.py"))) == (
        "a-b.py ended without a call of web.run_app; no app and no factory of one was seen in it"
    )
