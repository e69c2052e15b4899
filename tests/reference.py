"""The reference pages of the manual, made from the settings and from the command line.

    python -m tests.reference

writes them anew; tests/test_docs.py fails while one of them is not current.
"""

import inspect
from collections.abc import Iterable
from pathlib import Path

import click

import aiocluster
from aiocluster.config.setting_texts import TOPICS, setting_help
from aiocluster.ui.cli import main

DOCS = Path(aiocluster.__file__).parent / "docs"

_SETTINGS = {setting.name: setting for setting in setting_help()}

_ABOUT_THE_COMMAND = """\
# The command line

`python -m aiocluster` is the same as the command `aiocluster`. Each command shows its help with
`-h` or `--help`; `aiocluster --version` shows the version.
"""

_ABOUT_RUN = """
Each setting has an option, and an option takes the [values](settings.md#values) of its setting. An
option without a value switches its setting on or off. `--help` shows the common options,
`--help-all` shows all. What the exit codes mean: [signals](signals.md).
"""


def pages() -> dict[str, str]:
    """Return the text that each reference page should have, by its name."""
    settings = (DOCS / "settings.md").read_text()
    return {"settings.md": _settings_page(settings), "command-line.md": _command_page()}


def _settings_page(page: str) -> str:
    """Return `page` with other tables in its section of all settings."""
    before, heading, rest = page.partition("\n## All settings\n")
    _, next_heading, after = rest.partition("\n## ")
    tables = (
        f"\n### {topic}\n\n"
        + _table(("setting", "value", "default", "what"), map(_setting_row, names))
        for topic, names in _names_by_topic()
    )
    return f"{before}{heading}{''.join(tables)}{next_heading}{after}"


def _setting_row(name: str) -> tuple[str, ...]:
    setting = _SETTINGS[name]
    return f"`{name}`", _values(setting.metavar), f"`{setting.default}`", setting.help


def _command_page() -> str:
    run, show = main.commands["run"], main.commands["help"]
    options = {option.name: option for option in run.params if isinstance(option, click.Option)}
    tables = [
        f"\n### {topic}\n\n"
        + _table(("option", "value", "what"), [_option_row(options.pop(name)) for name in names])
        for topic, names in _names_by_topic()
    ]
    rest = [_option_row(option) for option in options.values() if not option.hidden]
    tables.append(f"\n### Other options\n\n{_table(('option', 'value', 'what'), rest)}")
    return "".join([_ABOUT_THE_COMMAND, _command(run), _ABOUT_RUN, *tables, _command(show)])


def _command(command: click.Command) -> str:
    """Return the heading, the usage and the description of a command."""
    pieces = command.collect_usage_pieces(click.Context(command))
    usage = f"aiocluster {command.name} {' '.join(pieces)}"
    return (
        f"\n## aiocluster {command.name}\n\n```text\n{usage}\n```\n\n"
        f"{inspect.cleandoc(command.help or '')}\n"
    )


def _option_row(option: click.Option) -> tuple[str, ...]:
    flags = ", ".join(f"`{flag}`" for flag in [*option.opts, *option.secondary_opts])
    values = "" if option.is_flag else _values(option.metavar or "")
    return flags, values, (option.help or "").replace("  [", " [")


def _names_by_topic() -> list[tuple[str, list[str]]]:
    return [(topic, " ".join(names).split()) for topic, names in TOPICS.items()]


def _values(metavar: str) -> str:
    return ", ".join(f"`{value}`" for value in metavar.split("|"))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text)
