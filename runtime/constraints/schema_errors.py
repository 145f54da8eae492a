"""Finds the part of a JSON schema that cannot be compiled: the compiler says what is wrong, not where."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

# Keywords whose values are schemas, lists of schemas, or schemas by name.
_SCHEMAS = ("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
# Compilations until the search ends where it is.
_MOST_TRIES = 200


def failing_part(text: str, error_of: Callable[[str], str]) -> str:
    """`` at #/properties/age`` for the smallest failing schema inside schema ``text``; empty for the whole.

    ``error_of`` compiles a schema and returns its error, empty if there is none. A part is at fault if another error is
    found, or none, once something simple is in its place.
    """
    schema = json.loads(text)
    error, tries = error_of(text), _MOST_TRIES
    node, pointer, descended = schema, "#", True
    while descended and isinstance(node, dict):
        descended = False
        for holder, key, name in _inside(node):
            if tries == 0:
                break
            tries -= 1
            # Where one schema of several will do, one that allows anything would hide the others.
            part, holder[key] = holder[key], {"type": "null"} if name.startswith(("anyOf/", "oneOf/")) else True
            is_at_fault = error_of(json.dumps(schema)) != error
            holder[key] = part
            if is_at_fault:
                node, pointer, descended = part, f"{pointer}/{name}", True
                break
    return "" if pointer == "#" else f" at {pointer}"


def _inside(node: dict[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    """Where each schema directly inside ``node`` is: its holder, its key there, and its place in a JSON pointer."""
    for keyword, value in node.items():
        if keyword in _NAMED and isinstance(value, dict):
            for name in value:
                yield value, name, f"{keyword}/{name.replace('~', '~0').replace('/', '~1')}"
        elif keyword in _LISTS and isinstance(value, list):
            for place in range(len(value)):
                yield value, place, f"{keyword}/{place}"
        elif keyword in _SCHEMAS and isinstance(value, dict | bool):
            yield node, keyword, keyword
