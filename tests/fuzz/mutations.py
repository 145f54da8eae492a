"""Changes files as strangers, broken cards and broken programs change them: bytes, texts, JSON values, names, numbers.

Every change is drawn from a seeded generator, so that a number of a case finds it again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

NAMES = [
    "../../../../.bashrc",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/../../b",
    "a//b",
    "C:\\Windows\\x",
    "c:x",
    "..\\..\\x",
    "\\\\server\\x",
    "con",
    "NUL.onnx",
    "model.onnx\0",
    "a\nb.onnx",
    "\x1b[2Jmodel.onnx",
    "x" * 5000,
    "é" * 200,
    "model.onnx ",
    ".device/x.onnx",
    "pocketspec.json",
    "*/_ORT_MEM_ADDR_/*",
    "file:///etc/passwd",
    "~/.bashrc",
    "$HOME/x",
    "\ud800.onnx",
    "native.data",
]
NUMBERS: list[Any] = [
    0,
    -1,
    1,
    2,
    7,
    2**31,
    2**32 - 1,
    2**63,
    2**64,
    -(2**63),
    10**12,
    10**400,
    1e308,
    -1e308,
    1e-320,
    0.5,
    float("nan"),
    float("inf"),
    -float("inf"),
    True,
    False,
]
VALUES: list[Any] = [None, [], {}, "", "x", [[]], [None], {"": None}, *NAMES[:6], *NUMBERS]


def mutated_json(text: str, random: Random) -> bytes:
    """JSON ``text`` with a few values exchanged, gone, or of another kind; now and then no JSON any more."""
    if random.random() < 0.15:
        return mutated_bytes(text.encode(), random)
    data = json.loads(text)
    for _ in range(random.randint(1, 3)):
        _change(data, random)
    return dumped(data, random)


def dumped(data: Any, random: Random) -> bytes:
    """``data`` as JSON, in one of the ways in which text of JSON goes wrong or in none of them."""
    text = json.dumps(data, ensure_ascii=random.random() < 0.5)
    match random.randrange(40):
        case 0:
            return b"[" * 10_000 + text.encode("utf-8", "surrogatepass")
        case 1:
            return text.encode("utf-16", "surrogatepass")
        case 2:
            return b"\xff" + text.encode("utf-8", "surrogatepass")
        case 3:
            return text.replace("1", "1" * 5000, 1).encode("utf-8", "surrogatepass")
        case 4:  # every key twice
            return text.replace("{", '{"levels": 1, "levels": 2, ', 1).encode("utf-8", "surrogatepass")
        case 5:
            return ('{"a":' * 10_000 + "1" + "}" * 10_000).encode()
    return text.encode("utf-8", "surrogatepass")


def mutated_bytes(data: bytes, random: Random) -> bytes:
    """``data`` with bytes exchanged, zeroed, cut off, or said twice."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        first = random.randrange(len(changed) + 1)
        last = min(len(changed), first + random.choice([1, 1, 2, 8, 100]))
        match random.randrange(6):
            case 0:
                changed[first:last] = random.randbytes(last - first)
            case 1:
                changed[first:last] = bytes(last - first)
            case 2:
                del changed[first:last]
            case 3:
                del changed[first:]
            case 4:
                changed[first:first] = changed[first:last]
            case 5:
                changed[first:last] = b"\xff" * (last - first)
    return bytes(changed)


def mutated_names(data: bytes, names: list[bytes], random: Random) -> bytes:
    """``data`` with one of the ``names`` in it exchanged for a hostile one, of the same length where that can be."""
    name = random.choice(names)
    other = random.choice(NAMES).encode("utf-8", "surrogatepass")
    if random.random() < 0.7:
        other = (b"../" * len(name) + other)[-len(name) :]
    return data.replace(name, other, random.choice([1, -1]))


def mutated_template(text: str, random: Random) -> bytes:
    """A template with pieces of it exchanged, doubled, nested, or with programs that take much."""
    pieces = [
        "{{ 'x' * 10**9 }}",
        "{% for i in range(100000) %}",
        "{% endfor %}",
        "{{ messages|tojson }}",
        "{% if %}",
        "{{",
        "%}",
        "{#",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ ''.__class__.__mro__ }}",
        "{% set x = [x, x] %}",
        "{{ x ~ x }}",
        "{{ messages[0].content|center(10**8) }}",
        "{% include '/etc/passwd' %}",
        "{{ self }}",
        "{{ range(10**9) }}",
        "{{ 10**10**8 }}",
        "{{ messages * 10**8 }}",
        "{% set ns = namespace(a=messages) %}",
        "{% set ns.a = ns.a + ns.a %}",
        "{{ '%1000000000d' % 1 }}",
        "{{ cycler('a').next() }}",
        "{% break %}",
        "{{ messages|map('upper')|join('x' * 99999) }}",
        "(" * 500,
        "\0",
        "é" * 50,
    ]
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(text) + 1)
        text = text[:place] + random.choice(pieces) + text[place + random.choice([0, 0, 3, 30]) :]
    return mutated_bytes(text.encode(), random) if random.random() < 0.2 else text.encode()


def _change(data: Any, random: Random) -> None:
    """Exchanges one value of ``data``, or takes it away, or adds another."""
    holder, key = random.choice(list(_places(data)))
    match random.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[random.choice([*NAMES[:8], "more", "sha256"])] = copy.deepcopy(holder.pop(key))
        case 2 if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        case 3 if isinstance(holder[key], str):
            holder[key] = random.choice(NAMES)
        case 4 | 5 if isinstance(holder[key], int | float):
            holder[key] = random.choice(NUMBERS)
        case _:
            holder[key] = copy.deepcopy(random.choice(VALUES))
    if not data:
        data["schema"] = 1


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder of a value in ``data``, and the key of it there."""
    items: list[tuple[Any, Any]] = []
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data))
    for key, value in items:
        yield data, key
        yield from _places(value)


Mutate = Callable[[Random], bytes]
