"""Damaged and forged session files: changed bytes, and changes of what a file says under a hash that is right."""

from __future__ import annotations

import hashlib
import json
import math
from random import Random
from typing import Any

JUNK: list[Any] = [
    -1, 0, 1, 3, 255, 1 << 31, (1 << 63) - 1, 1 << 63, 1 << 64, 10**40, 0.5, 1e308, math.nan, math.inf, True, False,
    None, "", "kv", "F32", "I8", "F64", "BF16", "near", "tiny", "\x00", "\ud800", "..", "a" * 20_000, [], [1], {},
    [0, 1 << 63], {"a": 1}, [[[]]], ["x", None], {"role": "user"}, {"role": "user", "content": None},
]  # fmt: skip
NESTED = ("session", "conversation")
_NO_HASH = "0" * 64


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header, with the JSON in its texts parsed, and the arrays' bytes."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    texts = header["__metadata__"]
    for name in NESTED:
        if name in texts:
            texts[name] = json.loads(texts[name])
    return header, data[8 + length :]


def forge(header: dict[str, Any], content: bytes) -> bytes:
    """A file with a right hash, whatever is in it."""
    texts = header.get("__metadata__")
    if isinstance(texts, dict):
        nested = {name: json.dumps(texts[name]) for name in NESTED if name in texts}
        header = {**header, "__metadata__": {**texts, **nested, "sha256": _NO_HASH}}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    raw = len(raw).to_bytes(8, "little") + raw
    digest = hashlib.sha256(raw + content).hexdigest()
    return raw.replace(f'"sha256":"{_NO_HASH}"'.encode(), f'"sha256":"{digest}"'.encode(), 1) + content


def damaged(random: Random, data: bytes) -> bytes:
    """``data`` with flipped bits, cut off, with a piece moved, left out or put in, or with another length in front."""
    changed = bytearray(data)
    place = random.choice([random.randrange(8), random.randrange(min(4000, len(data))), random.randrange(len(data))])
    size = random.choice([1, 2, 8, 64, random.randrange(1, len(data))])
    match random.randrange(6):
        case 0:
            changed[place] ^= 1 << random.randrange(8)
        case 1:
            del changed[place:]
        case 2:
            del changed[place : place + size]
        case 3:
            changed[place:place] = random.randbytes(min(size, 4096))
        case 4:
            other = random.randrange(len(data))
            changed[place : place + size] = data[other : other + size]
        case 5:
            changed[:8] = random.choice([0, 2, len(data), 1 << 31, (1 << 63) - 1, (1 << 64) - 1]).to_bytes(8, "little")
    return bytes(changed)


def forged(random: Random, data: bytes) -> bytes:
    """``data`` with one to three fields of its header replaced, removed, swapped or renamed, under a right hash."""
    header, content = split(data)
    for _ in range(random.randrange(1, 4)):
        holder, key = random.choice(list(fields(header)))
        match random.randrange(4):
            case 0 | 1:
                holder[key] = random.choice(JUNK)
            case 2:
                del holder[key]
            case 3:
                other, name = random.choice(list(fields(header)))
                try:
                    holder[key], other[name] = other[name], holder[key]
                    json.dumps(header)
                except (ValueError, KeyError, IndexError):  # one was inside of the other
                    return data
    if random.random() < 0.2:
        place = random.randrange(len(content))
        content = content[:place] + random.randbytes(4) + content[place + 4 :]
    return forge(header, content)


def fields(value: Any) -> Any:
    """Every place in JSON data: what holds it, and its key or number."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from fields(value[key])
