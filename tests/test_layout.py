import ast
from pathlib import Path

import aiocluster

PACKAGE = Path(aiocluster.__file__).parent
TESTS = Path(__file__).parent


def test_every_package_has_a_folder_of_tests_at_its_path() -> None:
    """A reader of a module finds its tests by its path."""
    packages = {file.parent.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py")}
    untested = [package for package in packages if not any((TESTS / package).glob("test_*.py"))]
    assert untested == []


def test_the_docstring_of_every_package_is_its_map() -> None:
    """It says in ten lines at most what the package is."""
    for file in sorted(PACKAGE.rglob("__init__.py")):
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        assert 1 <= len(text.splitlines()) <= 10, file
