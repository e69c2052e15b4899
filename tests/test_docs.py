"""README and manual are true: their code runs, their links lead somewhere."""

import ast
import asyncio
import inspect
import re
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import aiocluster

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
