"""JSON Schema of a dataclass, for programs in other languages that read what this one writes.

``python -m tests.memory.json_schema`` writes the plan's anew, which a test holds to the plan.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from memory.plan import Plan
from tests.places import ROOT

PLAN_SCHEMA = ROOT / "memory/plan.schema.json"
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


if __name__ == "__main__":
    PLAN_SCHEMA.write_text(json.dumps(json_schema(Plan, "Memory plan"), indent=2) + "\n", encoding="utf-8")
