"""README and manual are true: their code runs, their links lead somewhere."""

import ast
import asyncio
import dataclasses
import inspect
import re
from collections.abc import Collection
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import aiocluster
from aiocluster.config.setting_texts import setting_help
from aiocluster.config.settings import RENAMED, Settings
from aiocluster.metrics.snapshot import Dispatch, Metrics
from aiocluster.policies import named
from tests import reference

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((Path(aiocluster.__file__).parent / "docs").glob("*.md"))
TEXTS = [README, ROOT / "benchmarks" / "RESULTS.md", *PAGES]

# Each stands for a process, a socket or a file that the sentence should name.
_VAGUE = re.compile(r"\b(whom?|whoever|nobody|somebody|everybody|anybody)\b", re.IGNORECASE)

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def python_blocks() -> list[tuple[str, str]]:
    """Return each block of Python in README and manual, with where it stands."""
    return [
        (f"{page.name}, line {text.count(chr(10), 0, match.start()) + 1}", match[1])
        for page in TEXTS
        for text in [page.read_text()]
        for match in _BLOCK.finditer(text)
    ]


async def test_every_block_of_python_runs() -> None:
    """A reader may copy any block: it runs, and the app that it makes answers."""
    for place, code in python_blocks():
        namespace: dict[str, object] = {"__name__": "block"}
        compiled = compile(code, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if inspect.isawaitable(ran := eval(compiled, namespace)):
            await ran
        if (app := await _app_of(namespace)) is not None:
            async with TestClient(TestServer(app)) as client:
                assert (await client.get("/")).status < 500, place


async def _app_of(namespace: dict[str, object]) -> web.Application | None:
    found = namespace.get("app")
    if callable(make := namespace.get("make_app")):
        found = await asyncio.ensure_future(made) if inspect.isawaitable(made := make()) else made
    return found if isinstance(found, web.Application) else None


def test_every_link_leads_somewhere() -> None:
    """A link names a file as GitHub finds it, and a heading that this file has."""
    lost = [
        f"{page.name}: {link}"
        for page in TEXTS
        for link in re.findall(r"\]\(([^):]+)\)", page.read_text())
        if not _leads_somewhere(page, link)
    ]
    assert lost == []


def _leads_somewhere(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not anchor or anchor in _anchors(target.read_text()))


def _anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_page_can_be_found() -> None:
    """The README links to each page of the manual, and to the figures."""
    readme = README.read_text()
    links = [str(page.relative_to(ROOT)) for page in TEXTS if page != README]
    assert [link for link in links if f"({link})" not in readme] == []


def test_every_sentence_names_its_subject() -> None:
    """A worker, a client or a caller is called that, so that a stranger can follow."""
    vague = [
        f"{page.name}, line {number}: {match[0]}"
        for page in TEXTS
        for number, line in enumerate(page.read_text().splitlines(), 1)
        for match in _VAGUE.finditer(line)
    ]
    assert vague == []


def test_the_glossary_is_alphabetical_and_short() -> None:
    """A word is found at once, and one sentence says what it means."""
    page = next(path for path in PAGES if path.name == "glossary.md").read_text()
    rows = re.findall(r"^\| \*\*(.+)\*\* \| (.+) \|$", page, re.MULTILINE)
    words = [word for word, _ in rows]
    assert words == sorted(set(words))
    assert len(words) == page.count("\n| **")
    assert [word for word, text in rows if not re.fullmatch(r"[A-Z](?!.*\. ).*\.", text)] == []


def test_every_member_that_the_manual_lists_is_there() -> None:
    """A member that is renamed is renamed in the manual too."""
    missing = [
        f"{kind.__name__}.{member}"
        for page, heading, kind in (
            ("api.md", "## Cluster", aiocluster.Cluster),
            ("api.md", "## WorkerHandle", aiocluster.WorkerHandle),
            ("api.md", "## WorkerContext", aiocluster.WorkerContext),
            ("metrics.md", "A `Snapshot` has", Metrics),
            ("metrics.md", "`snapshot.dispatch[role]`", Dispatch),
        )
        for member in _listed(page, heading)
        if not hasattr(kind, member) and f"self.{member} = " not in inspect.getsource(kind)
    ]
    assert missing == []


def test_the_reference_is_current() -> None:
    """A setting or an option that is added or changed is changed in the manual too."""
    pages = {page.name: page.read_text() for page in PAGES}
    stale = [name for name, text in reference.pages().items() if pages.get(name) != text]
    assert stale == [], "run: python -m tests.reference"


def test_every_kind_of_value_is_explained() -> None:
    """A metavar of `--help` stands in the table of values."""
    explained = {
        value for cell in _first_cells("settings.md", "## Values") for value in cell.split("`")
    }
    values = {value for setting in setting_help() for value in setting.metavar.split("|")}
    assert [value for value in values if value != value.lower() and value not in explained] == []


def test_every_changed_name_is_there_and_its_old_one_is_not() -> None:
    """A program that is moved to this version finds the new name of what it uses."""
    page = next(path for path in PAGES if path.name == "changes.md").read_text()
    rows = re.findall(
        r"^\| (\w+).* \| `(\S+?)(?:\(\))?` \| `(\S+?)(?:\(\))?` \|$", page, re.MULTILINE
    )
    for kind, renamed in (("setting", RENAMED), ("attribute", named.RENAMED)):
        assert {old: new for what, old, new in rows if what == kind} == renamed
    places: dict[str, Collection[str]] = {
        "setting": Settings.__struct_fields__,
        "option": [f"--{name.replace('_', '-')}" for name in Settings.__struct_fields__],
        "event": aiocluster.__all__,
        "metric": Dispatch.__struct_fields__,
        "attribute": _listed("policies.md", "Attributes of"),
        "method": dir(aiocluster.Cluster),
    }
    assert {kind for kind, _, _ in rows} == {*places}
    for kind, old, new in rows:
        assert (new in places[kind], old in places[kind]) == (True, False), (kind, old, new)


def test_every_event_is_described_with_its_fields() -> None:
    """The manual lists each event, and what it carries beside its worker."""
    listed = {
        name: tuple(filter(None, fields.split(", ")))
        for cell in _first_cells("api.md", "## Events")
        for name, fields in re.findall(r"`(\w+)(?:\(([\w, ]*)\))?`", cell)
    }
    there = {
        name: tuple(f.name for f in dataclasses.fields(kind) if f.name != "worker")
        for name in aiocluster.__all__
        if dataclasses.is_dataclass(kind := getattr(aiocluster, name))
        and kind.__module__ == "aiocluster.events"
        and name not in ("Event", "WorkerEvent")
    }
    assert listed == there


def _listed(page: str, heading: str) -> list[str]:
    """Return the members in the first column of the table below a heading."""
    cells = _first_cells(page, heading)
    members = [name for cell in cells for name in re.findall(r"`(?:await )?(\w+)", cell)]
    assert members, f"{page}: no table below {heading!r}"
    return members


def _first_cells(page: str, heading: str) -> list[str]:
    text = next(path for path in PAGES if path.name == page).read_text()
    _, found, below = text.partition(f"\n{heading}")
    assert found, f"{page} has no {heading!r}"
    lines = below[below.index("\n|") + 1 :].partition("\n\n")[0].splitlines()
    return [line.split(" | ")[0] for line in lines[2:]]
