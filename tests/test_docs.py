"""The manual is true: its code runs, its links lead somewhere."""

import ast
import asyncio
import inspect
import re
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import aiocluster

ROOT = Path(__file__).parents[1]
PAGES = sorted((Path(aiocluster.__file__).parent / "docs").glob("*.md"))

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def python_blocks() -> list[tuple[str, str]]:
    """Return each block of Python in the manual, with where it stands."""
    return [
        (f"{page.name}, line {text.count(chr(10), 0, match.start()) + 1}", match[1])
        for page in PAGES
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
    """A link of a page names a page beside it, or a file of the repository."""
    lost = [
        f"{page.name}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())
        if not (page.parent / link).exists() and not (ROOT / link).exists()
    ]
    assert lost == []


def test_every_page_can_be_found() -> None:
    """The README names each page of the manual."""
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES if f"docs/{page.name}" not in readme] == []
