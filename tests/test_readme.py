"""README and manual are complete: what they list is what there is."""

import re
from pathlib import Path

import aiocluster
from aiocluster.config.setting_texts import setting_help

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "aiocluster" / "docs"
MANUAL = {page.name: page.read_text() for page in sorted(DOCS.glob("*.md"))}
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text()
EVERYTHING = "\n".join([README, *MANUAL.values(), RESULTS])


def test_the_readme_is_short() -> None:
    """A newcomer reads it in five minutes; details belong in the manual."""
    assert len(README.splitlines()) <= 250


def test_the_settings_of_the_readme_have_their_defaults_and_help() -> None:
    """A setting that is changed is changed there too; the manual has all (tests/reference.py)."""
    rows = [f"| `{one.name}` | `{one.default}` | {one.help} |" for one in setting_help()]
    in_short = _rows(_section("Ten settings you will touch"))
    assert in_short
    assert [row for row in in_short if row not in rows] == []


def test_every_public_name_stands_in_the_manual() -> None:
    """What can be imported can be found."""
    manual = "\n".join(MANUAL.values())
    assert [name for name in aiocluster.__all__ if f"`{name}" not in manual] == []


def test_every_file_that_is_named_is_there() -> None:
    """A test, a benchmark or an example that the text names exists."""
    named = re.findall(r"`((?:tests|benchmarks|examples)/[\w/.]+\.py)`", EVERYTHING)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_promise_names_its_test() -> None:
    """A promise without a test is none."""
    promises = _rows(MANUAL["promises.md"])
    assert promises
    assert [row for row in promises if not re.search(r"`tests/[\w/.]+`", row)] == []


def test_the_promises_of_the_readme_are_among_all() -> None:
    """The README repeats the most important ones, word for word."""
    promises = _rows(_section("Promises"))
    assert promises
    assert [row for row in promises if row not in _rows(MANUAL["promises.md"])] == []


def _section(heading: str) -> str:
    """Return a section of the README."""
    return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _rows(text: str) -> list[str]:
    """Return the rows of all tables, but for the two that make each one's head."""
    lines = text.splitlines()
    heads = {n for n, line in enumerate(lines[1:]) if re.fullmatch(r"[| -]+", line)}
    return [
        line
        for n, line in enumerate(lines)
        if line.startswith("|") and n not in heads and n - 1 not in heads
    ]
