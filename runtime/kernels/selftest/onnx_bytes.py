"""Writes tiny ONNX models, byte by byte: what the self-test and the cost curve run, without the onnx package.

A field of protobuf is a key, ``number << 3 | kind``, and a value: kind 0 a variable-length integer, kind 2 a length and
so many bytes, kind 5 four bytes. Numbers are those of ``onnx.proto``. Left out: everything a graph of a few nodes with
constants does not need.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

_IR_VERSION = 10
_OPSETS = {"": 21, "com.microsoft": 1, "pocketspec": 1}
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "float16": 10}

Attribute = int | float | str


@dataclass(frozen=True)
class Node:
    """One operator. An absent optional input is an empty name."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    domain: str = "pocketspec"


@dataclass(frozen=True)
class ValueType:
    """``kind`` is NumPy's name of an element type; ``shape`` has sizes, or names for those that are open."""

    kind: str
    shape: tuple[int | str, ...]


def encode_model(
    nodes: Iterable[Node],
    inputs: Mapping[str, ValueType],
    outputs: Mapping[str, ValueType],
    constants: Mapping[str, npt.NDArray[Any]],
) -> bytes:
    """A model as ONNX Runtime reads it."""
    graph = b"".join(
        [
            *(_message(1, _node(node)) for node in nodes),
            _text(2, "graph"),
            *(_message(5, _tensor(name, array)) for name, array in constants.items()),
            *(_message(11, _value(name, value)) for name, value in inputs.items()),
            *(_message(12, _value(name, value)) for name, value in outputs.items()),
        ]
    )
    opsets = b"".join(_message(8, _text(1, domain) + _int(2, version)) for domain, version in _OPSETS.items())
    return _int(1, _IR_VERSION) + opsets + _message(7, graph)


def _node(node: Node) -> bytes:
    names = b"".join(_text(1, name) for name in node.inputs) + b"".join(_text(2, name) for name in node.outputs)
    attributes = b"".join(_message(5, _attribute(name, value)) for name, value in node.attributes.items())
    return names + _text(4, node.operator) + attributes + _text(7, node.domain)


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _int(3, value) + _int(20, 2)
    if isinstance(value, float):
        return _text(1, name) + _key(2, 5) + struct.pack("<f", value) + _int(20, 1)
    return _text(1, name) + _text(4, value) + _int(20, 3)


def _tensor(name: str, array: npt.NDArray[Any]) -> bytes:
    dimensions = b"".join(_int(1, size) for size in array.shape)
    return dimensions + _int(2, _TYPES[array.dtype.name]) + _text(8, name) + _message(9, array.tobytes())


def _value(name: str, value: ValueType) -> bytes:
    sizes = b"".join(_message(1, _int(1, size) if isinstance(size, int) else _text(2, size)) for size in value.shape)
    return _text(1, name) + _message(2, _message(1, _int(1, _TYPES[value.kind]) + _message(2, sizes)))


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _int(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value & (1 << 64) - 1)


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode())


def _message(number: int, data: bytes) -> bytes:
    return _key(number, 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)
