"""The command line: `aiocluster run pkg.module:name`.

The options of `run` are made from the settings, so every setting has one, of the same name and
with the same help. Only what was typed is passed on: the defaults are the record's alone.

What serves is imported only when a command needs it, so that `--help` answers at once.
"""

import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from aiocluster.config.setting_texts import (
    SettingHelp,
    setting_help,
    value_from_text,
    value_from_texts,
)
from aiocluster.config.settings import settings_from
from aiocluster.config.target import check_target
from aiocluster.errors import ConfigError

SHORT_OPTIONS = {"workers": "-w", "bind": "-b"}


def _show_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    """Print the version; click's own option fails where the package runs without installing."""
    if not wanted:
        return
    try:
        click.echo(f"aiocluster {version('aiocluster')}")
    except PackageNotFoundError:
        click.echo("aiocluster, not installed: it runs from its source")
    ctx.exit()


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
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
    """Every core for an asyncio web app: a primary that accepts, workers that serve."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _check_target(_ctx: click.Context, param: click.Parameter, target: str | None) -> str | None:
    """Check the form only: to see more, the user's code would have to run."""
    if target is None:
        return None
    try:
        check_target(target, "on_start" if param.name == "on_start" else "app")
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error
    return target


def _read_value(_ctx: click.Context, param: click.Parameter, text: Any) -> Any:
    """Read what was typed for one option: None when nothing was."""
    if text is None or param.name is None:
        return None
    try:
        if param.multiple:
            return value_from_texts(param.name, text) if text else None
        return value_from_text(param.name, text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error


def _option(setting: SettingHelp) -> click.Option:
    """Make the option of one setting."""
    flag = setting.name.replace("_", "-")
    if setting.is_switch:
        return click.Option(
            [setting.name, f"--{flag}/--no-{flag}"],
            default=None,  # else click's own False would look as if it had been typed
            help=f"{setting.help}  [default: {setting.default}]",
        )
    short = [SHORT_OPTIONS[setting.name]] if setting.name in SHORT_OPTIONS else []
    return click.Option(
        [setting.name, *short, f"--{flag}"],
        type=str,
        metavar="VALUE",
        multiple=setting.is_multiple,
        callback=_read_value,
        help=f"{setting.help}  [{setting.allowed}; default: {setting.default}]",
    )


def _with_setting_options(command: click.Command) -> click.Command:
    command.params.extend(_option(setting) for setting in setting_help())
    return command


@_with_setting_options
@main.command()
@click.argument("target", callback=_check_target)
@click.option(
    "--on-start",
    metavar="pkg.module:name",
    callback=_check_target,
    help="A coroutine function that runs beside the cluster and is given it, say to subscribe.",
)
def run(target: str, on_start: str | None, **options: Any) -> None:
    """Serve TARGET, pkg.module:name, until a signal stops it.

    The name is an aiohttp Application, or a function, sync or async, that makes one: for
    example my_shop.web:make_app.
    """
    given = {name: value for name, value in options.items() if value is not None}
    _import_from(given.get("chdir") or ".")
    try:
        settings_from(given)  # before the slow import: a mistake is told at once
        exit_code = _main_run()(target, on_start=on_start, settings=given)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    sys.exit(exit_code)


def _import_from(folder: str) -> None:
    """Let TARGET, and what else is named, be a module of this folder, as `python -m` does."""
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
    """Import what serves: aiohttp and uvloop take longer to import than all else here."""
    from aiocluster.program.run import main_run

    return main_run
