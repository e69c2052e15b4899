import ast
import asyncio
from pathlib import Path

import aiocluster
from aiocluster import private_apis

PACKAGE = Path(aiocluster.__file__).parent
LISTED = {PACKAGE / "private_apis.py", PACKAGE / "worker/http/aiohttp_internals.py"}
PRIVATE = {name for _, name in private_apis._NEEDED} | {"_inheriting", "_initializing"}


def test_this_python_has_all_that_is_needed() -> None:
    """A new Python may have renamed something: then it is named here, and not in a user's log."""
    assert private_apis.missing() == []


def test_private_parts_are_used_in_one_place() -> None:
    """Whoever ports to a new Python reads one list."""
    found = [
        f"{module.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}"
        for module in sorted(PACKAGE.rglob("*.py"))
        if module not in LISTED
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE
        if ast.unparse(node.value) != "self"
    ]
    assert found == []


def test_a_thread_without_a_loop_is_in_none() -> None:
    """As with the public function, which raises there."""

    async def inside() -> bool:
        return private_apis.is_in_a_loop()

    assert (private_apis.is_in_a_loop(), asyncio.run(inside())) == (False, True)
