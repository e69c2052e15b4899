"""What a type looks like on the wire, in few characters."""

import hashlib
import json
from typing import Any

import msgspec


def fingerprint(*types: Any) -> str:
    """Return what changes when a field of these types, or of those within, does."""
    schemas = [_without_descriptions(msgspec.json.schema(one)) for one in types]
    return hashlib.sha256(json.dumps(schemas, sort_keys=True).encode()).hexdigest()[:16]


def _without_descriptions(schema: Any) -> Any:
    if isinstance(schema, dict):
        items = schema.items()
        return {key: _without_descriptions(value) for key, value in items if key != "description"}
    if isinstance(schema, list):
        return [_without_descriptions(one) for one in schema]
    return schema
