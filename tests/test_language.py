"""The package speaks plainly: sentences name their subject, and a process is no person."""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import aiocluster

PACKAGE = Path(aiocluster.__file__).parent

# Words that leave out the subject, or make a person of a process, a socket or a file.
_PERSONS = re.compile(r"\b(who|whom|whose|whoever|nobody|somebody|everybody)\b", re.IGNORECASE)

_FIRST_WORDS = {"A", "An", "The", "One"}


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _texts(module: Path) -> Iterator[tuple[int, str]]:
    """Yield each comment and each string, docstrings included, with its line."""
    with tokenize.open(module) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type in _TEXTS:
                yield token.start[0], token.string


_TEXTS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def test_no_process_is_a_person() -> None:
    """Docstrings, comments, log lines, errors and help say "a worker at its limit"."""
    found = [
        f"{module.relative_to(PACKAGE)}:{line}: {word.group()}"
        for module in _modules()
        for line, text in _texts(module)
        for word in _PERSONS.finditer(text)
    ]
    assert found == []


def test_a_docstring_of_a_class_defines_it() -> None:
    """So that it can be read alone, it begins with A, An, The or One."""
    found = [
        f"{module.relative_to(PACKAGE)}:{node.lineno}: {text.split()[0]}"
        for module in _modules()
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.ClassDef) and (text := ast.get_docstring(node))
        if text.split()[0] not in _FIRST_WORDS
    ]
    assert found == []
