"""How rows reach a session: the graph's inputs and outputs, their buffers, and one binding per number of rows.

ONNX Runtime looks up and checks names at every call unless they are bound. The KV cache is bound once, for all numbers
of rows. Forwards of another number of rows than before bind ids, positions and logits. A step fills these arrays in
place and binds only the attention mask (and the tree bias with it), because its length changes from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from runtime.arrays import TokenArray
from runtime.decoding.protocols import HiddenInput
from runtime.errors import UnsupportedModelError
from runtime.models.borrowed_cache import BorrowedCache
from runtime.models.kv_cache import KVCache
from runtime.models.layer_states import KINDS, RECURRENT, replay_array

# The bias that hides a row from another: finite, so that biases can be added, and low enough for exp to give zero.
HIDDEN = np.float32(-1e30)

# Rows, rows with logits, and whether they are a tree: forwards of one kind do the same work.
ForwardKind = tuple[int, int, bool]

_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(uint8)": np.dtype(np.uint8),
}
_FEATURES, _OWN, _HIDDEN, _TAP = "features", "own_hidden", "hidden", "hidden_states."
_KNOWN_INPUTS = {
    "input_ids", "attention_mask", "position_ids", "tree_bias", "logits_from", "replay", _FEATURES, _OWN
}  # fmt: skip
_KV = "past_key_values."


@dataclass(frozen=True)
class Signature:
    """A graph's inputs and outputs. ``takes_trees``: has ``tree_bias``; ``limits_logits``: has ``logits_from``.

    ``states`` has the names and shapes of the inputs for states of layers, 0 for sizes that are left open. ``taps`` has
    the outputs for hidden rows, and how wide they are. Of a prediction head, ``features`` and ``own_hidden`` are how
    wide the hidden rows are that it reads: the target's, and its own.
    """

    kv_inputs: tuple[str, ...]
    kv_outputs: tuple[str, ...]
    kv_shapes: tuple[tuple[int, int], ...]
    kv_types: tuple[np.dtype[Any], ...]
    logits_width: int
    logits_type: np.dtype[Any]
    takes_positions: bool
    takes_trees: bool
    limits_logits: bool
    states: tuple[tuple[str, tuple[int, ...]], ...] = ()
    taps: tuple[tuple[str, int], ...] = ()
    features: int = 0
    own_hidden: int = 0

    @property
    def state_outputs(self) -> tuple[str, ...]:
        """The outputs that states are written to, in the order of ``states``."""
        return tuple(_present(name) for name, _ in self.states)

    @property
    def replays(self) -> bool:
        """Whether the graph has recurrent states, and so the input ``replay``."""
        return any(name.startswith(RECURRENT) for name, _ in self.states)


def read_signature(session: ort.InferenceSession, kv_shape: tuple[int, int] | None = None) -> Signature:
    """The signature of the session's graph; UnsupportedModelError if it is not a decoder with a growing KV cache.

    ``kv_shape`` (kv_heads, head_size) is used where the graph leaves those sizes open, as genai's builder does.
    """
    inputs = {value.name: value for value in session.get_inputs()}
    optional = {value.name for value in session.get_overridable_initializers()}
    outputs = {value.name: value for value in session.get_outputs()}
    past = [name for name in inputs if name.startswith(_KV)]
    states = [name for name in inputs if name.partition(".")[0] in KINDS]
    present = [_present(name) for name in (*past, *states)]
    missing = ({"input_ids", "attention_mask"} - set(inputs)) | ({"logits", *present} - set(outputs))
    unknown = set(inputs) - {*past, *states} - _KNOWN_INPUTS
    if unknown or missing or not (past or states or _FEATURES in inputs):
        what = f"needs {min(unknown)}" if unknown else f"lacks {min(missing, default='past_key_values')}"
        raise UnsupportedModelError(f"this graph is no decoder that the runtime can run: it {what}; export it again")
    for value in [inputs[name] for name in (*past, *states)] + [outputs["logits"]]:
        if value.type not in _TYPES:
            raise UnsupportedModelError(f"{value.name} is {value.type}; allowed: {', '.join(_TYPES)}")
    return Signature(
        kv_inputs=tuple(past),
        kv_outputs=tuple(present[: len(past)]),
        kv_shapes=tuple(_kv_shape(inputs[name], kv_shape) for name in past),
        kv_types=tuple(_TYPES[inputs[name].type] for name in past),
        logits_width=outputs["logits"].shape[-1],
        logits_type=_TYPES[outputs["logits"].type],
        takes_positions="position_ids" in inputs,
        takes_trees="tree_bias" in inputs or "tree_bias" in optional,
        limits_logits="logits_from" in inputs or "logits_from" in optional,
        states=tuple((name, _sizes(inputs[name])) for name in states),
        taps=tuple((name, _sizes(value)[-1]) for name, value in outputs.items() if name.startswith(_TAP)),
        features=_sizes(inputs[_FEATURES])[-1] if _FEATURES in inputs else 0,
        own_hidden=_sizes(inputs[_OWN])[-1] if _OWN in inputs and _HIDDEN in outputs else 0,
    )


def _present(past: str) -> str:
    """The output beside an input of a KV cache or a state."""
    return past.replace(_KV, "present.") if past.startswith(_KV) else past.replace("past_", "present_", 1)


def _sizes(value: Any) -> tuple[int, ...]:
    """The shape of a state, 0 for sizes left open."""
    return tuple(size if isinstance(size, int) else 0 for size in value.shape)


def _kv_shape(value: Any, stand_in: tuple[int, int] | None) -> tuple[int, int]:
    shape = value.shape
    sizes = [shape[axis] for axis in (1, 3)] if len(shape) == 4 else []
    if stand_in is not None:
        sizes = [given if isinstance(given, int) else known for given, known in zip(sizes, stand_in, strict=False)]
    if len(sizes) != 2 or not all(isinstance(size, int) for size in sizes):
        raise UnsupportedModelError(f"{value.name} has shape {shape}; allowed: [1, kv_heads, rows, size]")
    return sizes[0], sizes[1]


class Buffers:
    """The arrays that all bindings of a model share: ids, positions, mask, tree bias and logits, and hidden rows.

    ``taps`` are there if the cache keeps hidden rows. The next forward of a prediction head has ``given`` hidden rows
    of the target, and as many of its own.
    """

    def __init__(self, signature: Signature, cache: KVCache | BorrowedCache, rows: int, logits_rows: int) -> None:
        self.ids = np.zeros(rows, np.int64)
        self.positions = np.zeros(rows, np.int64)
        self.offsets = np.arange(rows, dtype=np.int64)
        self.mask = np.ones((1, cache.capacity), np.int64)
        self.bias = np.zeros(logits_rows * cache.capacity if signature.takes_trees else 0, np.float32)
        self.logits = np.zeros(logits_rows * signature.logits_width, signature.logits_type)
        self.kv = cache.arrays
        self.states = () if cache.states is None else cache.states.arrays
        self.replay = replay_array()
        self.taps = [np.zeros((rows, width), np.float32) for _, width in signature.taps if cache.hidden is not None]
        self.features = np.zeros((rows, signature.features), np.float32)
        self.own_hidden = np.zeros((logits_rows, signature.own_hidden), np.float32)
        self.hidden = np.zeros((logits_rows, signature.own_hidden), np.float32)
        self.given = (0, 0)

    @property
    def hidden_arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The arrays for hidden rows."""
        return (*self.taps, self.features, self.own_hidden, self.hidden)

    def give(self, hidden: HiddenInput | None, width: int) -> None:
        """Takes the hidden rows for the next forward, of ``width`` rows; padding repeats the last of those given."""
        own = hidden is not None and hidden.own
        if hidden is not None:
            taken = self.own_hidden if own else self.features
            taken[: len(hidden.rows)] = hidden.rows
            taken[len(hidden.rows) : width] = hidden.rows[-1]
        self.given = (0, width) if own else (width, 0)


class BoundArray:
    """A contiguous array and ONNX Runtime's view of it, which holds no reference to it before 1.29."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        # Another array would be copied, and results would go to the copy.
        assert array.flags.c_contiguous
        self.array, self.value = array, ort.OrtValue.ortvalue_from_numpy(array)


class KeptBinding:
    """An ``IOBinding`` that keeps bound arrays alive, because ONNX Runtime reads their memory."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.io = session.io_binding()
        self._kept: dict[str, npt.NDArray[Any]] = {}
        self._kind: ForwardKind | None = None

    def bind_input(self, name: str, array: npt.NDArray[Any]) -> None:
        """Reads input ``name``, which may be optional, from the contiguous ``array``."""
        self._bind(self.io.bind_ortvalue_input, name, BoundArray(array))

    def bind_required_input(self, name: str, array: npt.NDArray[Any]) -> None:
        """The same for a required input, which takes 1 microsecond instead of 3 (EPYC Zen 4)."""
        assert array.flags.c_contiguous, name
        self._kept[name] = array
        self.io.bind_cpu_input(name, array)

    def bind_output(self, name: str, array: npt.NDArray[Any]) -> None:
        """Writes output ``name`` to the contiguous ``array``."""
        self._bind(self.io.bind_ortvalue_output, name, BoundArray(array))

    def use(self, kind: ForwardKind, inputs: Mapping[str, BoundArray], outputs: Mapping[str, BoundArray]) -> None:
        """Binds what belongs to forwards of ``kind``, unless the last one was of that kind."""
        if kind != self._kind:
            self._kind = None
            for name, bound in inputs.items():
                self._bind(self.io.bind_ortvalue_input, name, bound)
            for name, bound in outputs.items():
                self._bind(self.io.bind_ortvalue_output, name, bound)
            self._kind = kind

    def _bind(self, bind: Callable[[str, ort.OrtValue], None], name: str, bound: BoundArray) -> None:
        self._kept[name] = bound.array
        bind(name, bound.value)


class SharedBindings:
    """What all bindings of a session share: one ``IOBinding`` for chains and one for trees, with the cache bound.

    The cache is most of what is bound: 26 KB for ten layers, which every number of rows would hold again.
    """

    def __init__(self, session: ort.InferenceSession, signature: Signature, buffers: Buffers) -> None:
        self.signature, self.buffers = signature, buffers
        self._session = session
        self._bound: dict[bool, KeptBinding] = {}

    def of(self, tree: bool) -> KeptBinding:
        """The one for trees or for chains. They differ, because an optional input cannot be unbound."""
        bound = self._bound.get(tree)
        if bound is None:
            bound = self._bound[tree] = KeptBinding(self._session)
            names = zip(self.signature.kv_inputs, self.signature.kv_outputs, self.buffers.kv, strict=True)
            for taken, given, array in names:
                bound.bind_input(taken, array)
                bound.bind_output(given, array)
            states = zip(self.signature.states, self.signature.state_outputs, self.buffers.states, strict=True)
            for (taken, _), given, array in states:
                bound.bind_input(taken, array)
                bound.bind_output(given, array)
            if self.signature.replays:
                bound.bind_input("replay", self.buffers.replay)
        return bound


class Binding:
    """Everything bound for forwards of ``width`` rows that give logits for the last ``logits_rows`` of them."""

    def __init__(self, shared: SharedBindings, width: int, logits_rows: int, tree: bool) -> None:
        signature, buffers = shared.signature, shared.buffers
        self.kind = (width, logits_rows, tree)
        self._bound = shared.of(tree)
        self.io = self._bound.io
        self.logits = buffers.logits[: logits_rows * signature.logits_width].reshape(
            logits_rows, signature.logits_width
        )
        self._ids, self._positions = buffers.ids[:width], buffers.positions[:width]
        self._offsets, self._mask, self._bias = buffers.offsets[:width], buffers.mask, buffers.bias
        self._width, self._tree = width, tree
        self._inputs = {"input_ids": BoundArray(self._ids[None])}
        if signature.takes_positions:
            self._inputs["position_ids"] = BoundArray(self._positions[None])
        if signature.limits_logits:
            self._inputs["logits_from"] = BoundArray(np.array([width - logits_rows], np.int64))
        self._buffers = buffers if signature.features else None
        self.taps = [array[:width] for array in buffers.taps]
        self.hidden = buffers.hidden[:logits_rows] if signature.own_hidden else None
        self._outputs = {"logits": BoundArray(self.logits[None])}
        self._outputs |= {
            name: BoundArray(tap[None]) for (name, _), tap in zip(signature.taps, self.taps, strict=False)
        }
        if self.hidden is not None:
            self._outputs[_HIDDEN] = BoundArray(self.hidden[None])

    def fill(self, tokens: Sequence[int] | TokenArray, parents: Sequence[int] | None, past: int) -> None:
        """Sets the inputs for ``tokens`` after ``past`` rows of cache. Padding repeats the last token."""
        self._bound.use(self.kind, self._inputs, self._outputs)
        if self._buffers is not None:
            features, own = self._buffers.given
            self._bound.bind_required_input(_FEATURES, self._buffers.features[None, :features])
            self._bound.bind_required_input(_OWN, self._buffers.own_hidden[None, :own])
        rows, width = len(tokens), self._width
        self._ids[:rows] = tokens
        self._ids[rows:] = tokens[-1]
        total = past + width
        self._bound.bind_required_input("attention_mask", self._mask[:, :total])
        if self._tree:
            assert parents is not None
            visible = ancestors(parents, width)
            np.add(visible.sum(1), past - 1, out=self._positions)
            bias = self._bias[: width * total].reshape(1, 1, width, total)
            bias[..., :past] = 0
            bias[..., past:] = np.where(visible, np.float32(0), HIDDEN)
            self._bound.bind_input("tree_bias", bias)
        else:
            np.add(self._offsets, past, out=self._positions)
            self._positions[rows:] = past + rows - 1


def ancestors(parents: Sequence[int], width: int) -> npt.NDArray[np.bool_]:
    """Which rows each row sees, bool ``[width, width]``: itself and its ancestors. A padding row sees itself.

    With parent rows -1, 0, 0, 1, row 3 sees rows 0, 1 and 3. The sum of row i is its depth plus one.
    """
    visible = np.eye(width, dtype=np.bool_)
    for row, parent in enumerate(parents):
        if parent >= 0:
            visible[row] |= visible[parent]
    return visible
