"""JSON Schema of a dataclass, for programs in other languages that read what this one writes."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_SIMPLE = {int: "integer", float: "number", str: "string", bool: "boolean", NoneType: "null"}


def json_schema(kind: type, title: str) -> dict[str, Any]:
    """The schema of ``kind``, draft 2020-12: fields without a default are required, others are refused."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **_schema(kind)}


def _schema(kind: Any) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _SIMPLE:
        return {"type": _SIMPLE[kind]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, UnionType):
        return {"anyOf": [_schema(option) for option in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0])}
    assert is_dataclass(kind), kind
    hints = get_type_hints(kind)
    return {
        "type": "object",
        "description": (kind.__doc__ or "").split("\n\n")[0].strip(),
        "properties": {name: _schema(hint) for name, hint in hints.items()},
        "required": [field.name for field in fields(kind) if field.default is MISSING],
        "additionalProperties": False,
    }
