"""Writes small ONNX models without the onnx package, for the self-test and for timing.

``runtime.bundle.protobuf`` says what a field is; numbers of fields are those of ``onnx.proto``. It writes only what a
graph of a few nodes with constants needs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from runtime.bundle.protobuf import encode_field, encode_number

_IR_VERSION = 10
_OPSETS = {"": 21, "com.microsoft": 1, "pocketspec": 1}
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "float16": 10}

Attribute = int | float | str


@dataclass(frozen=True)
class GraphNode:
    """One operator. An absent optional input has an empty name."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    domain: str = "pocketspec"


@dataclass(frozen=True)
class ValueType:
    """``kind`` is NumPy's name of the element type; ``shape`` has sizes, and names for open ones."""

    kind: str
    shape: tuple[int | str, ...]


def encode_model(
    nodes: Iterable[GraphNode],
    inputs: Mapping[str, ValueType],
    outputs: Mapping[str, ValueType],
    constants: Mapping[str, npt.NDArray[Any]],
) -> bytes:
    """A model as the bytes that ONNX Runtime reads."""
    graph = b"".join(
        [
            *(encode_field(1, _node(node)) for node in nodes),
            _text(2, "graph"),
            *(encode_field(5, _tensor(name, array)) for name, array in constants.items()),
            *(encode_field(11, _value(name, value)) for name, value in inputs.items()),
            *(encode_field(12, _value(name, value)) for name, value in outputs.items()),
        ]
    )
    opsets = b"".join(encode_field(8, _text(1, domain) + _int(2, version)) for domain, version in _OPSETS.items())
    return _int(1, _IR_VERSION) + opsets + encode_field(7, graph)


def _node(node: GraphNode) -> bytes:
    names = b"".join(_text(1, name) for name in node.inputs) + b"".join(_text(2, name) for name in node.outputs)
    attributes = b"".join(encode_field(5, _attribute(name, value)) for name, value in node.attributes.items())
    return names + _text(4, node.operator) + attributes + _text(7, node.domain)


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _int(3, value) + _int(20, 2)
    if isinstance(value, float):
        return _text(1, name) + encode_number(2 << 3 | 5) + struct.pack("<f", value) + _int(20, 1)
    return _text(1, name) + _text(4, value) + _int(20, 3)


def _tensor(name: str, array: npt.NDArray[Any]) -> bytes:
    dimensions = b"".join(_int(1, size) for size in array.shape)
    return dimensions + _int(2, _TYPES[array.dtype.name]) + _text(8, name) + encode_field(9, array.tobytes())


def _value(name: str, value: ValueType) -> bytes:
    sizes = b"".join(
        encode_field(1, _int(1, size) if isinstance(size, int) else _text(2, size)) for size in value.shape
    )
    return _text(1, name) + encode_field(2, encode_field(1, _int(1, _TYPES[value.kind]) + encode_field(2, sizes)))


def _int(number: int, value: int) -> bytes:
    return encode_number(number << 3) + encode_number(value & (1 << 64) - 1)


def _text(number: int, text: str) -> bytes:
    return encode_field(number, text.encode())
