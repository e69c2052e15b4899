"""The words for a setting's type: the allowed values, in errors and in `--help`."""

from typing import Any

from msgspec import inspect


def allowed(hint: Any) -> str:
    """Return in words the values that the type `hint` allows."""
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
    """Return the words for a number and its bounds.

    The upper bound of a float only refuses infinity, so the word for it is "finite".
    """
    if isinstance(kind, inspect.IntType):
        return f"a whole number from {kind.ge} to {kind.le}"
    if kind.gt is not None:
        return f"a finite number > {kind.gt:g}"
    return f"a finite number >= {kind.ge:g}"
