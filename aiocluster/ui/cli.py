"""The command line: `aiocluster run server.py`, or `aiocluster run pkg.module:name`.

The options of `run` are made from the settings: every setting has an option of the same name, with
the same help. The command passes on only the options that were typed; the settings record alone
has the defaults.

A command imports the server only when it needs it, so that `--help` answers at once.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import click

from aiocluster.config.script import Script
from aiocluster.config.script_file import check_script, is_script, put_on_path
from aiocluster.config.setting_texts import (
    TOPICS,
    SettingHelp,
    setting_help,
    value_from_text,
    value_from_texts,
)
from aiocluster.config.settings import PARTS_OF_AN_ADDRESS, RENAMED, Settings, settings_from
from aiocluster.config.target import check_module, check_target
from aiocluster.errors import BootError, ConfigError
from aiocluster.ui.manual import show_manual

# The exit code of a start that fails, as in program/runner.py, which is slow to import.
_EXIT_BOOT_FAILED = 3

SHORT_OPTIONS = {"workers": "-w", "bind": "-b"}

# The key in a context's `meta` that stands for a help with all options.
_ALL = "aiocluster.all"


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    """Print the version; click's own option fails if the package is not installed."""
    if not wanted:
        return
    try:
        click.echo(f"aiocluster {version('aiocluster')}")
    except PackageNotFoundError:
        click.echo("aiocluster, not installed: it runs from its source")
    ctx.exit()


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Show an error of usage as one line, without the usage before it."""
    try:
        yield
    except click.MissingParameter:
        raise  # the usage shows what is missing
    except click.NoSuchOption as error:
        raise click.UsageError(_no_such_option(error)) from None
    except click.UsageError as error:
        error.ctx = None  # click prints the usage of a context
        raise


def _no_such_option(error: click.NoSuchOption) -> str:
    name, context = error.option_name, error.ctx
    if name.strip("-") in PARTS_OF_AN_ADDRESS or name == "-p":
        return f"No such option {name!r}: give the address as -b 127.0.0.1:PORT"
    if new := RENAMED.get(name.strip("-").replace("-", "_")):
        return f"No such option {name!r}: it is --{new.replace('_', '-')} now"
    if context is not None and context.command is main:
        command = f"{context.command_path} run FILE.py {name} ..."
        return f"No such option {name!r} before the command: type {command}"
    return error.format_message()


class _Commands(click.Group):
    """The commands of `aiocluster`, with errors that say what to type."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _one_line_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line_errors():
            return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None:
            targets = (arg for arg in args if ":" in arg or is_script(arg))
            command = f"{ctx.command_path} run {next(targets, 'FILE.py')}"
            raise click.UsageError(f"No such command {name!r}: type {command}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Run an aiohttp web app on every core: a primary process accepts, workers serve."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


main.add_command(show_manual)


def _check_on_start(_ctx: click.Context, _param: click.Parameter, name: str | None) -> str | None:
    """Check the form only; any other check would run the user's code."""
    if name is not None:
        with _usage_errors():
            check_target(name, "on_start")
    return name


def _check_target(_ctx: click.Context, _param: click.Parameter, target: str) -> str:
    """Check that the target is a script that exists, or has the form of an import string."""
    if os.path.isfile(f"{target}.py"):
        raise click.BadParameter(f"{target!r}: did you mean {target}.py, or {target}:name?")
    with _usage_errors():
        if not is_script(target):
            check_target(target)
        else:
            check_script(target)
    return target


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


def _read_value(_ctx: click.Context, param: click.Parameter, text: Any) -> Any:
    """Return the value that was typed for an option, None if nothing was typed."""
    if text is None or param.name is None:
        return None
    try:
        if param.multiple:
            return value_from_texts(param.name, text) if text else None
        return value_from_text(param.name, text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


class _Run(click.Command):
    """The command `run`, with its options by topic; its help leaves out the less common ones."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        records = {option.name or "": option.get_help_record(ctx) for option in options}
        sections = {
            topic: f"{common} {others}" if _ALL in ctx.meta else common
            for topic, (common, others) in TOPICS.items()
        }
        rest = [name for name in records if name not in Settings.__struct_fields__]
        for topic, names in {**sections, "Other options": " ".join(rest)}.items():
            with formatter.section(topic):
                formatter.write_dl([*filter(None, map(records.get, names.split()))])


def _show_all(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


def _option(setting: SettingHelp) -> click.Option:
    """Make the option of one setting."""
    flag = setting.name.replace("_", "-")
    repeatable = "repeatable; " if setting.is_multiple else ""
    help_text = f"{setting.help}  [{repeatable}default: {setting.default}]"
    if setting.is_switch:
        # Without a default of None, click's own False would look as if it had been typed.
        flags = f"--{flag}/--no-{flag}"
        return click.Option([setting.name, flags], default=None, help=help_text)
    short = [SHORT_OPTIONS[setting.name]] if setting.name in SHORT_OPTIONS else []
    return click.Option(
        [setting.name, *short, f"--{flag}"],
        type=str,
        metavar=setting.metavar,
        multiple=setting.is_multiple,
        callback=_read_value,
        help=help_text,
    )


def _with_setting_options(command: click.Command) -> click.Command:
    command.params.extend(_option(setting) for setting in setting_help())
    return command


@_with_setting_options
@main.command(cls=_Run, epilog="The values are explained by: aiocluster help settings")
@click.argument("target", callback=_check_target)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS...]")
@click.option(
    "--on-start",
    metavar="pkg.module:name",
    callback=_check_on_start,
    help="Coroutine function that runs beside the cluster, say to subscribe to its metrics.",
)
@click.option("--as-program", is_flag=True, hidden=True)
@click.option(
    "--help-all",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show this message with the less common options too, and exit.",
)
def run(
    target: str, arguments: tuple[str, ...], on_start: str | None, as_program: bool, **options: Any
) -> None:
    """Serve TARGET until a signal stops it.

    TARGET is a script or a name. A script, for example server.py, ends in a call of aiohttp's
    web.run_app; it gets the ARGUMENTS. What it gives to run_app (host, port, ...) counts if no
    option says otherwise. A name is pkg.module:name, for example my_shop.web:make_app: an aiohttp
    Application, or a function, sync or async, that makes one.
    """
    given = {name: value for name, value in options.items() if value is not None}
    app = _app(target, arguments, given.get("chdir") or ".")
    try:
        settings_from(given)  # before the slow import, so that a mistake is shown at once
        if as_program and isinstance(app, Script):
            _program().run_program(app, on_start, given)
            return
        _check_modules(app, on_start)
        exit_code = _main_run()(app, on_start=on_start, settings=given)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except BootError:  # the script calls aiocluster.run: it is the program
        _program().start_over()
    sys.exit(exit_code)


def _check_modules(app: str | Script, on_start: str | None) -> None:
    """End as a failed start does if a module does not exist; this precedes the slow import."""
    try:
        for text, what in ((app, "app"), (on_start, "on_start")):
            if isinstance(text, str):
                check_module(text, what)
    except ConfigError as error:
        click.echo(f"could not start: {error}", err=True)
        sys.exit(_EXIT_BOOT_FAILED)


def _app(target: str, arguments: tuple[str, ...], folder: str) -> str | Script:
    """Return the app, and put its folder on the import path: the script's, or `folder`."""
    if is_script(target):
        script = Script(target, arguments, _current_folder())
        put_on_path(script)
        return script
    if arguments:
        raise click.UsageError(f"only a script has arguments, not {target}: {' '.join(arguments)}")
    _import_from(folder)
    return target


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # the folder was removed, and the script's path is absolute
        return ""


def _import_from(folder: str) -> None:
    """Put `folder` first on the import path, as `python -m` does with the current folder."""
    try:
        path = os.path.realpath(folder, strict=True)
    except OSError:
        path = ""
    if not os.path.isdir(path):
        current = "the current folder does not exist any more"
        raise click.UsageError(current if folder == "." else f"chdir: {folder!r} is no folder")
    if sys.path[:1] != [path]:
        sys.path.insert(0, path)


def _main_run() -> Callable[..., int]:
    """Import the server: aiohttp and uvloop take longer to import than everything else here."""
    from aiocluster.program.run import main_run

    return main_run


def _program() -> ModuleType:
    from aiocluster.program import script

    return script
