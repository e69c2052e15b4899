"""What may be given to `run`: an Application, whatever makes one, or the name of either."""

from pathlib import Path

import aiohttp
import pytest

from tests.support.program import Program

MODULE = """
import functools
from aiohttp import web
import aiocluster

def named(name, *, greeting="hello"):
    async def answer(request):
        return web.Response(text=f"{greeting} {name}")
    app = web.Application()
    app.router.add_get("/", answer)
    return app

def make_app():
    return named("function")

async def make_app_async():
    return named("coroutine function")

class Shop:
    name = "callable object"
    def __call__(self):
        return named(self.name)
    def make(self):
        return named("method")
    async def make_async(self):
        return named("async method")
    @classmethod
    def of_class(cls):
        return named("classmethod")
    class Inner:
        @staticmethod
        async def make():
            return named("dotted name")

app = named("live Application")
"""

MAIN = """
if __name__ == "__main__":
    aiocluster.run({app}, workers=2, bind="127.0.0.1:0")
"""

OBJECTS = {
    "app": "hello live Application",
    "make_app": "hello function",
    "make_app_async": "hello coroutine function",
    "Shop().make": "hello method",
    "Shop().make_async": "hello async method",
    "Shop.of_class": "hello classmethod",
    "functools.partial(named, 'partial', greeting='good day')": "good day partial",
    "functools.partial(make_app_async)": "hello coroutine function",
    "Shop()": "hello callable object",
    "lambda: named('lambda')": "hello lambda",
    "make_app_async()": "hello coroutine function",
}

NAMES = {
    "shop:app": "hello live Application",
    "shop:make_app": "hello function",
    "shop:make_app_async": "hello coroutine function",
    "shop:Shop.of_class": "hello classmethod",
    "shop:Shop.Inner.make": "hello dotted name",
    "town.shop:make_app": "hello function",
}


async def answer_of(program: Program) -> str:
    """Ask once, stop, and see that it ended well."""
    async with aiohttp.ClientSession() as session, session.get(await program.url()) as response:
        text = await response.text()
    assert await program.stop() == 0
    output = await program.all_output()
    assert "Traceback" not in output
    assert "never awaited" not in output
    return text


@pytest.mark.parametrize("app", OBJECTS)
async def test_an_object_of_the_program_itself_is_served(tmp_path: Path, app: str) -> None:
    """An Application and any callable that makes one are served, also from __main__."""
    async with Program(tmp_path, MODULE + MAIN.format(app=app)) as program:
        assert await answer_of(program) == OBJECTS[app]


@pytest.mark.parametrize("name", NAMES)
async def test_an_import_string_is_served(tmp_path: Path, name: str) -> None:
    """ "pkg.module:name" names an app or a factory; dots after the colon go deeper."""
    (tmp_path / "town").mkdir()
    program = Program(tmp_path, "import aiocluster\n" + MAIN.format(app=repr(name)))
    program.write("shop.py", MODULE)
    program.write("town/shop.py", MODULE)
    async with program:
        assert await answer_of(program) == NAMES[name]
