import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from aiocluster.config.addresses import Address
from aiocluster.config.setting_texts import TOPICS, setting_help
from aiocluster.config.settings import Settings
from aiocluster.errors import ConfigError
from aiocluster.ui.cli import main, run

SWITCHES = [setting.name for setting in setting_help() if setting.is_switch]
VALUED = [setting.name for setting in setting_help() if not setting.is_switch]


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class FakeProgram(ModuleType):
    """Stands for what serves: remembers what it was asked, and gives an exit code."""

    def __init__(self) -> None:
        super().__init__("aiocluster.program.run")
        self.calls: list[tuple[object, Mapping[str, Any]]] = []
        self.path: list[str] = []
        self.on_start: object = None
        self.exit_code = 0
        self.error: Exception | None = None

    def main_run(self, app: object, *, on_start: object, settings: Mapping[str, Any]) -> int:
        self.calls.append((app, settings))
        self.on_start = on_start
        self.path = list(sys.path)
        if self.error is not None:
            raise self.error
        return self.exit_code


@pytest.fixture
def program(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> FakeProgram:
    """What serves, and a module `shop` that is only looked for."""
    fake = FakeProgram()
    (folder := tmp_path_factory.mktemp("modules")).joinpath("shop.py").write_text("1 / 0")
    monkeypatch.setitem(sys.modules, "aiocluster.program.run", fake)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    return fake


def invoke(*args: str) -> Result:
    # Wide, so that nothing is wrapped where a test looks for it.
    return CliRunner().invoke(main, args, terminal_width=1000)


def test_no_command_prints_the_help() -> None:
    """Typing the bare name is a question, not a mistake."""
    result = invoke()
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert "run" in result.output


def test_version_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """--version says which aiocluster this is."""
    monkeypatch.setattr("aiocluster.ui.cli.version", {"aiocluster": "1.2.3"}.__getitem__)
    result = invoke("--version")
    assert (result.exit_code, result.output) == (0, "aiocluster 1.2.3\n")


def test_version_without_an_installation_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source tree has no version, and says so."""

    def no_version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("aiocluster.ui.cli.version", no_version)
    result = invoke("--version")
    assert result.exit_code == 0
    assert "not installed" in result.output


def test_every_setting_has_an_option_of_the_same_name() -> None:
    """What Python can set the command line can set, under the same word, and nothing else."""
    options = {option.name: option for option in run.params if isinstance(option, click.Option)}
    assert options.pop("as_program").hidden  # the command gives it to itself
    assert options.pop("help_all").help
    assert set(options) == {*Settings.__struct_fields__, "on_start"}
    for name, option in options.items():
        assert flag(name) in option.opts


def test_help_explains_every_option() -> None:
    """Meaning, form and default of a value can be read without a manual."""
    for setting in setting_help():
        (option,) = (option for option in run.params if option.name == setting.name)
        names, text = option.get_help_record(click.Context(run)) or ("", "")
        assert text.startswith(f"{setting.help}  ["), setting.name
        assert f"default: {setting.default}]" in text, setting.name
        off = f" / --no-{flag(setting.name)[2:]}"
        form = off if setting.is_switch else f" {setting.metavar}"
        assert names.endswith(f"{flag(setting.name)}{form}"), setting.name


def test_help_shows_the_common_options_by_topic() -> None:
    """`run --help` shows the 25 options that people touch; --help-all shows all."""
    shown = [topic_of_each_option(invoke("run", text)) for text in ("--help", "--help-all")]
    common = {name: topic for topic, names in TOPICS.items() for name in names[0].split()}
    others = {name: topic for topic, names in TOPICS.items() for name in names[1].split()}
    rest = dict.fromkeys(["on_start", "help_all", "help"], "Other options")
    assert shown == [{**common, **rest}, {**common, **others, **rest}]
    assert len(common) == 24  # on_start is the 25th
    assert sorted([*common, *others]) == sorted(Settings.__struct_fields__)


def topic_of_each_option(result: Result) -> dict[str, str]:
    """Return the heading below which each option stands."""
    assert result.exit_code == 0
    found, topic = {}, ""
    for line in result.output.splitlines():
        if re.match(r"\w.*:$", line):
            topic = line[:-1]
        elif match := re.match(r"  (?:-\w, )?--([\w-]+)", line):
            found[match[1].replace("-", "_")] = topic
    return found


def test_help_fits_a_terminal_and_says_what_disables() -> None:
    """Every line has at most 80 columns; 0 never stands for any number."""
    result = CliRunner().invoke(main, ["run", "--help-all"], terminal_width=80)
    assert max(map(len, result.output.splitlines())) <= 80
    assert "-w, --workers INT|auto|cpu|io" in result.output
    assert "--when-full wait|503|close" in result.output
    assert "--access-log / --no-access-log" in result.output
    assert [s.name for s in setting_help() if re.search(r"\b0(:| is| means)", s.help)] == []


def test_help_imports_nothing_that_serves() -> None:
    """--help answers at once: aiohttp and uvloop stay on the disk."""
    script = (
        "import sys; from aiocluster.ui.cli import main\n"
        "main(['run', '--help'], standalone_mode=False)\n"
        "sys.exit(bool({'aiohttp', 'uvloop', 'asyncio'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_the_module_runs_as_the_command() -> None:
    """`python -m aiocluster` is the command, and says so in its usage."""
    command = [sys.executable, "-m", "aiocluster", "run", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "python -m aiocluster run" in done.stdout


def test_only_what_was_typed_is_passed_on(program: FakeProgram) -> None:
    """Defaults come from one place, the settings."""
    assert invoke("run", "shop:make_app").exit_code == 0
    assert program.calls == [("shop:make_app", {})]


def test_values_are_passed_on_with_their_types(program: FakeProgram) -> None:
    """What serves gets values as Python would give them, not text."""
    line = "run shop.web:app.inner -w 4 -b :80 -b [::1]:0 --graceful-timeout 0 --preload false"
    invoke(*line.split(), "--access-log", "--no-tcp-keepalive")
    expected = {
        "workers": 4,
        "bind": (Address("", 80), Address("::1", 0)),
        "graceful_timeout": 0.0,
        "preload": False,
        "access_log": True,
        "tcp_keepalive": False,
    }
    assert program.calls == [("shop.web:app.inner", expected)]
    assert program.calls[0][1]["preload"] is False


@pytest.mark.parametrize("name", VALUED)
def test_every_default_can_be_typed(program: FakeProgram, name: str) -> None:
    """What --help shows as the default is a value that the option takes."""
    default = {setting.name: setting.default for setting in setting_help()}[name]
    assert invoke("run", "shop:app", flag(name), default).exit_code == 0
    # What is nothing need not be passed on.
    assert list(program.calls[0][1]) == [name] * (name not in ("autoscale", "chdir"))


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_goes_on_and_off(program: FakeProgram, name: str) -> None:
    """A true or false setting needs no value."""
    invoke("run", "shop:app", flag(name))
    invoke("run", "shop:app", f"--no-{flag(name)[2:]}")
    assert [settings for _, settings in program.calls] == [{name: True}, {name: False}]


@pytest.mark.parametrize("name", sorted({*VALUED} - {"access_log_format", "chdir"}))
def test_a_wrong_value_is_a_usage_error_that_says_what_is_allowed(
    program: FakeProgram, name: str
) -> None:
    """The error names the option and what it takes, and nothing starts."""
    allowed = {setting.name: setting.allowed for setting in setting_help()}[name]
    result = invoke("run", "shop:app", flag(name), "-1x")
    assert result.exit_code == 2
    assert flag(name) in result.output
    assert "'-1x'" in result.output
    assert allowed in result.output
    assert program.calls == []


def test_values_that_do_not_go_together_are_a_usage_error(program: FakeProgram) -> None:
    """Each address is right by itself; both together are not."""
    result = invoke("run", "shop:app", "-b", ":80", "-b", ":80")
    assert result.exit_code == 2
    assert "[':80', ':80']" in result.output
    assert program.calls == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run shop:app --workres 4", "--workers"),
        ("run shop:app --affinity auto", "No such option '--affinity': it is --cpu-affinity now"),
        ("run shop:app --port 80", "No such option '--port': give the address as -b 127.0.0.1:"),
        ("run shop:app --host=::1", "No such option '--host': give the address as -b 127.0.0.1:"),
        ("--workers 4 app.py", "'--workers' before the command: type main run FILE.py --workers"),
        ("strat", "No such command 'strat': type main run FILE.py"),
        ("strat -w 2 app.py", "No such command 'strat': type main run app.py"),
        ("app.py --debug", "No such command 'app.py': type main run app.py"),
        ("shop:app", "No such command 'shop:app': type main run shop:app"),
    ],
)
def test_an_unknown_option_or_command_gets_one_line_that_says_what_to_type(
    program: FakeProgram, line: str, said: str
) -> None:
    """The option that was probably meant, or the whole command."""
    result = invoke(*line.split())
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert said in result.output
    assert result.output.count("\n") == 1
    assert program.calls == []


@pytest.mark.parametrize(
    "target", ["shop", "shop:", ":app", "shop.py", "a/b.py:app", "a:b:c", "a:b()"]
)
def test_a_target_of_another_form_is_a_usage_error(program: FakeProgram, target: str) -> None:
    """The error shows the form, before anything is imported."""
    result = invoke("run", target)
    assert result.exit_code == 2
    assert repr(target) in result.output
    assert "pkg.module:name" in result.output
    assert result.output.count("\n") == 1  # a reload logs it, and each try to get a zygote
    assert program.calls == []


def test_the_exit_code_is_what_serving_gave(program: FakeProgram) -> None:
    """A service manager sees how it ended."""
    program.exit_code = 3
    assert invoke("run", "shop:app").exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nix:app"], "could not start: app 'nix:app': there is no module 'nix' on the path"),
        (["shop:app", "--on-start", "nix:f"], "could not start: on_start 'nix:f': there is no"),
    ],
)
def test_a_module_that_is_not_there_is_told_before_the_slow_import(
    program: FakeProgram, arguments: list[str], said: str
) -> None:
    """With the code of any start that fails."""
    result = invoke("run", *arguments)
    assert (result.exit_code, program.calls) == (3, [])
    assert result.output.startswith(said)


def test_an_app_that_makes_no_sense_is_a_usage_error(program: FakeProgram) -> None:
    """Whatever the user can put right is told without a traceback."""
    program.error = ConfigError("shop has no app")
    result = invoke("run", "shop:app")
    assert result.exit_code == 2
    assert "Error: shop has no app" in result.output


def test_the_current_folder_is_searched_first(
    program: FakeProgram, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A module beside which one stands is found, even before an installed one."""
    monkeypatch.chdir(tmp_path)
    invoke("run", "shop:app")
    invoke("run", "shop:app")
    assert program.path[0] == str(tmp_path)
    assert program.path.count(str(tmp_path)) == 1


def test_on_start_is_named_by_an_import_string(program: FakeProgram) -> None:
    """What runs beside the cluster can be named on the command line too, and only in that form."""
    assert invoke("run", "shop:app", "--on-start", "shop:watch").exit_code == 0
    assert program.on_start == "shop:watch"

    result = invoke("run", "shop:app", "--on-start", "shop")
    assert result.exit_code == 2
    assert "'shop' is not of the form 'pkg.module:name'" in result.output


def test_modules_are_looked_for_in_the_folder_of_the_app(
    program: FakeProgram, tmp_path: Path
) -> None:
    """By its real path, as the current folder is: a link may be turned while it serves."""
    (tmp_path / "release").mkdir()
    (tmp_path / "current").symlink_to("release")

    invoke("run", "shop:app", f"--chdir={tmp_path}/current")
    assert program.path[0] == f"{tmp_path}/release"

    result = invoke("run", "shop:app", f"--chdir={tmp_path}/next")
    assert (result.exit_code, "/next' is no folder" in result.output) == (2, True)
