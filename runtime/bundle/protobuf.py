"""Protobuf messages as bytes: the fields of one, one written field, and a copy in which one field has other content.

A field is a key, ``number << 3 | kind``, and a value: kind 0 a number of variable length, 1 and 5 eight and four bytes,
2 a length and so many bytes. Messages and texts are of kind 2; no other fields are looked at.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from export.untrusted import UntrustedError

Buffer = bytes | mmap.mmap
_VARIABLE, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_SIZES = {_EIGHT: 8, _FOUR: 4}


@dataclass(frozen=True)
class Field:
    """One field of kind 2: its ``number``, where its ``key`` begins, and its content from ``first`` to ``last``."""

    number: int
    key: int
    first: int
    last: int


def read_fields(data: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of kind 2 of the message from ``start`` to ``end``; UntrustedError if no message lies there."""
    place = start
    while place < end:
        begin = place
        key, place = _read_number(data, place, end)
        kind = key & 7
        if kind == _VARIABLE:
            _, place = _read_number(data, place, end)
            continue
        if kind != _BYTES and kind not in _SIZES:
            raise UntrustedError("is no ONNX graph")
        size, place = _read_number(data, place, end) if kind == _BYTES else (_SIZES[kind], place)
        if size > end - place:
            raise UntrustedError("is no ONNX graph, or is cut off")
        if kind == _BYTES:
            yield Field(key >> 3, begin, place, place + size)
        place += size


def replace_content(data: bytes, path: Sequence[Field], content: bytes) -> bytes:
    """``data`` with ``content`` in the last field of ``path``, whose fields lie in one another, the outermost first.

    The lengths of the fields around it are written anew.
    """
    *outer, field = path
    first, last = (outer[-1].first, outer[-1].last) if outer else (0, len(data))
    message = data[first : field.key] + encode_field(field.number, content) + data[field.last : last]
    return replace_content(data, outer, message) if outer else message


def _read_number(data: Buffer, place: int, end: int) -> tuple[int, int]:
    """A number of variable length at ``place``, and the place behind it."""
    value = shift = 0
    while place < end and shift < 64:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise UntrustedError("is no ONNX graph, or is cut off")


def encode_field(number: int, content: bytes) -> bytes:
    """A field of kind 2."""
    return encode_number(number << 3 | _BYTES) + encode_number(len(content)) + content


def encode_number(value: int) -> bytes:
    """``value``, not below 0, as a number of variable length."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)
