from pathlib import Path

import aiocluster

PACKAGE = Path(aiocluster.__file__).parent
TESTS = Path(__file__).parent

# What only says where things are, or calls what is tested elsewhere.
GLUE = {"__init__.py", "__main__.py"}


def test_every_module_has_its_own_tests() -> None:
    """Whoever changes a module finds its tests by its path."""
    missing = [
        str(module.relative_to(PACKAGE))
        for module in sorted(PACKAGE.rglob("*.py"))
        if module.name not in GLUE
        and not (TESTS / module.relative_to(PACKAGE)).with_name(f"test_{module.name}").exists()
    ]
    assert missing == []
