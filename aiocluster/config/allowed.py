"""A setting's type, put into words: what an error and `--help` say is allowed."""

from typing import Any

from msgspec import inspect


def allowed(hint: Any) -> str:
    """Say in words which values the type `hint` takes."""
    choices = _choices(inspect.type_info(hint))
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last


def _choices(kind: inspect.Type) -> list[str]:
    match kind:
        case inspect.Metadata():
            return _choices(kind.type)
        case inspect.UnionType():
            return [choice for part in kind.types for choice in _choices(part)]
        case inspect.LiteralType():
            return [str(value) for value in kind.values]
        case inspect.BoolType():
            return ["true", "false"]
        case inspect.IntType() | inspect.FloatType():
            return [_number(kind)]
        case inspect.StrType():
            return ["a text"]
    raise TypeError(f"no words for {kind!r}: add them here")


def _number(kind: inspect.IntType | inspect.FloatType) -> str:
    """Describe a number and its lower bound.

    A float's upper bound is only there to refuse infinity, so "finite" says it.
    """
    if isinstance(kind, inspect.IntType):
        return f"a whole number from {kind.ge} to {kind.le}"
    if kind.gt is not None:
        return f"a finite number > {kind.gt:g}"
    return f"a finite number >= {kind.ge:g}"
