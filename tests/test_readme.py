"""The README is true: what it lists is what there is."""

import re
from pathlib import Path

import aiocluster
from aiocluster.config.setting_texts import setting_help

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_setting_stands_in_the_readme_with_its_default_and_help() -> None:
    """A setting that is added or changed is changed in the README too."""
    missing = [
        setting.name
        for setting in setting_help()
        if f"| `{setting.name}` | `{setting.default}` | {setting.help} |" not in README
    ]
    assert missing == []


def test_every_public_name_stands_in_the_readme() -> None:
    """What can be imported can be found."""
    assert [name for name in aiocluster.__all__ if name not in README] == []


def test_every_file_the_readme_names_is_there() -> None:
    """No link leads nowhere, and each promise's test exists."""
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    named = re.findall(r"`((?:tests|benchmarks|examples)/[\w/.]+\.py)`", README)
    assert links
    assert [name for name in [*links, *named] if not (ROOT / name).exists()] == []
