"""Lowers attention to one ``com.microsoft::GroupQueryAttention`` a layer, with its cache in place and a bias.

Three interfaces of transformers are replaced: the attention function, the cache object that layers update, and the mask
functions that a model calls. Masks become markers, and attention without a marker is refused, so that no unknown kind
of mask is dropped. Every layer must update the cache and attend exactly once.

A sliding window is not the operator's ``local_window_size``, which counts rows of the cache: rows of a tree are not
positions. It is a bias, made once a step from ``position_ids`` and shared by all sliding layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.onnx.ops import symbolic, symbolic_multi_out
from transformers import masking_utils
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from export.graph.lowering.states import StateCache, TracedStates
from export.sources.model_shape import ArchitectureError

IMPLEMENTATION = "pocketspec"
_ATTENTION = "com.microsoft::GroupQueryAttention"
# Added to the scores of hidden keys: far below any score, and finite even twice, so that no kernel computes inf - inf.
MASKED = -1e30
_KNOWN_MASKS = {"create_causal_mask": None, "create_sliding_window_causal_mask": "sliding_window"}
# Hides padding from layers with states; a step has none.
_PADDING_MASK = "create_recurrent_attention_mask"
_NEUTRAL_ARGUMENTS = {
    "dropout",
    "position_ids",
    "use_cache",
    "cache_position",
    "is_causal",
    "position_embeddings",
    "output_router_logits",
}


@dataclass(frozen=True)
class CausalMask:
    """Marks a causal mask, which shows the last ``window`` positions alone if that is given."""

    window: int | None = None


class StepCache(StateCache):
    """The cache that layers update while they are traced: it records keys and values, and refuses everything else.

    Other attributes (cross attention, say) are state that the graph does not have. The length is refused as well,
    because a model that counts positions by itself is wrong in a tree.
    """

    is_compileable = False

    def __init__(self, layers: int, states: TracedStates | None = None) -> None:
        self.states = states
        self.updated: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * layers

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Records a layer's new keys and values; the operator appends them to the real cache."""
        if self.updated[layer_idx] is not None:
            raise ArchitectureError(f"layer {layer_idx} updates its cache twice; only one update is supported")
        self.updated[layer_idx] = (key, value)
        return key, value

    def __getattr__(self, name: str) -> Any:
        raise ArchitectureError(f"the model uses {name!r} of its cache, which has new keys and values only")


@dataclass
class TracedStep:
    """The inputs of one traced forward that attention needs, and what it makes of them.

    ``past`` holds (key, value) of every layer with a KV cache, float32 ``[1, kv_heads, capacity, head_size]``;
    ``readers`` attend to the caches of layers before them. ``rows`` is S, ``total`` T. Without a ``tree_bias`` the
    graph takes chains alone.
    """

    past: Mapping[int, tuple[torch.Tensor, torch.Tensor]]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    tree_bias: torch.Tensor | None
    logits_from: torch.Tensor
    cache: StepCache
    present: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    readers: tuple[int, ...] = ()
    attended: set[int] = field(default_factory=set)
    _shared: dict[Any, torch.Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """S, the rows of the step (symbolic)."""
        return self.input_ids.shape[1]

    @property
    def total(self) -> int:
        """T, past rows and rows of the step together (symbolic)."""
        return self.attention_mask.shape[1]

    def wanted_rows(self, hidden: torch.Tensor) -> torch.Tensor:
        """Rows of ``hidden`` ``[1, S, size]`` from ``logits_from`` on, traced as if they were all S rows."""
        end, axis = torch.tensor([2**31 - 1]), torch.tensor([1])
        return _op("Slice", [hidden, self.logits_from, end, axis], None, hidden.dtype, hidden.shape)

    def rows_between(self, hidden: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Rows of ``hidden`` from ``first`` to ``last``, int64 ``[1]``, traced as if they were all of them."""
        return _op("Slice", [hidden, first, last, torch.tensor([1])], None, hidden.dtype, hidden.shape)

    def joined(self, *parts: torch.Tensor) -> torch.Tensor:
        """Rows of all parts, ``[1, S, size]``, which are S together."""
        shape = (1, self.rows, parts[0].shape[2])
        return _op("Concat", list(parts), {"axis": 1}, parts[0].dtype, shape)

    def once(self, key: Any, make: Any) -> torch.Tensor:
        """A tensor that all layers share, made at its first use."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def length(self) -> torch.Tensor:
        """T as int64 ``[1]``."""
        return self.once("length", lambda: _length_of(self.attention_mask))

    def total_length(self) -> torch.Tensor:
        """T as int32 ``[1]``."""
        return self.once("total", lambda: self.length().to(torch.int32))

    def last_index(self) -> torch.Tensor:
        """T - 1 as int32 ``[1]``: the operator's ``seqlens_k``."""
        return self.once("last", lambda: self.total_length() - 1)

    def owner(self, key: torch.Tensor, value: torch.Tensor) -> int | None:
        """The layer that has put these keys and values into its cache; None if none has."""
        for layer, updated in enumerate(self.cache.updated):
            if updated is not None and updated[0] is key and updated[1] is value:
                return layer
        return None

    def no_rows(self, width: int) -> torch.Tensor:
        """``[1, 0, width]``: keys or values of a layer that adds none to a cache."""
        return self.once(("none", width), lambda: torch.zeros(1, 0, width))

    def bias(self, window: int | None) -> torch.Tensor | None:
        """``[1, 1, S, T]``: the tree bias, plus the window's; None if there is neither."""
        if window is None and self.tree_bias is None:
            return None
        return self.once(("bias", window), lambda: self._tree() if window is None else self._windowed(window))

    def _tree(self) -> torch.Tensor:
        ones = torch.ones(2, dtype=torch.int64)
        shape = _op("Concat", [ones, _length_of(self.input_ids), self.length()], {"axis": 0}, torch.int64, (4,))
        return _op("Expand", [self.tree_bias, shape], None, torch.float32, (1, 1, self.rows, self.total))

    def _windowed(self, window: int) -> torch.Tensor:
        rows, total = self.rows, self.total
        past = torch.squeeze(self.length() - _length_of(self.input_ids), 0)
        zero, one = torch.zeros((), dtype=torch.int64), torch.ones((), dtype=torch.int64)
        before = _op("Range", [zero, past, one], None, torch.int64, (total - rows,)).unsqueeze(0)
        keys = _op("Concat", [before, self.position_ids], {"axis": 1}, torch.int64, (1, total))
        distance = self.position_ids.unsqueeze(2) - keys.unsqueeze(1)
        outside = torch.where(distance >= window, MASKED, 0.0).unsqueeze(1)
        tree = self.bias(None)
        return outside if tree is None else tree + outside


class TracedAttention:
    """Our function for transformers' attention interface. ``step`` is set anew for every traced forward."""

    def __init__(self) -> None:
        self.step: TracedStep | None = None

    @property
    def current(self) -> TracedStep:
        """The step that is being traced."""
        assert self.step is not None
        return self.step

    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: object,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **others: object,
    ) -> tuple[torch.Tensor, None]:
        """Query ``[1, heads, S, head_size]``, key and value with kv_heads; result ``[1, S, heads, head_size]``.

        ``s_aux`` is the attention sink of every head: the score of a key without a value.
        """
        step, layer = self.current, module.layer_idx
        owner = _check_call(step, layer, key, value, attention_mask, others)
        assert isinstance(attention_mask, CausalMask)
        step.attended.add(layer)
        heads, size, kv_heads = query.shape[1], query.shape[3], key.shape[1]
        attributes = {"num_heads": heads, "kv_num_heads": kv_heads, "do_rotary": 0}
        attributes["scale"] = float(size**-0.5 if scaling is None else scaling)
        if softcap is not None:
            attributes["softcap"] = float(softcap)
        sinks = [] if s_aux is None else [s_aux]
        lengths = [step.last_index(), step.total_length(), None, None, None, step.bias(attention_mask.window), *sinks]
        shape = (1, step.rows, heads * size)
        if owner != layer:  # after its owner has added this step's rows to the cache; they are not added again
            none = step.no_rows(kv_heads * size)
            inputs = [_flat(query), none, none, *step.present[owner], *lengths]
            output = symbolic(_ATTENTION, inputs, attributes, dtype=torch.float32, shape=shape, version=1)
        else:
            past = step.past[layer]
            output, *present = symbolic_multi_out(
                _ATTENTION,
                [_flat(query), _flat(key), _flat(value), *past, *lengths],
                attributes,
                dtypes=(torch.float32,) * 3,
                shapes=(shape, *(tensor.shape for tensor in past)),
                version=1,
            )
            step.present[layer] = (present[0], present[1])
        return output.reshape(1, step.rows, heads, size), None


@contextmanager
def attention_lowered(namespaces: Sequence[Any], positions: int) -> Iterator[None]:
    """A context in which masks of the modules ``namespaces`` become markers.

    A window of ``positions`` tokens or more is left out: no text leaves it.
    """
    with ExitStack() as stack:
        for namespace in namespaces:
            for name in [name for name in vars(masking_utils) if name.startswith("create_")]:
                if hasattr(namespace, name):
                    stack.enter_context(mock.patch.object(namespace, name, _mask_maker(name, positions)))
        yield


@contextmanager
def attention_registered(attention: TracedAttention) -> Iterator[None]:
    """A context in which transformers knows our attention by its name."""
    ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION] = attention
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[IMPLEMENTATION]


def check_layers(step: TracedStep) -> None:
    """ArchitectureError unless every layer attended; each updates its cache and attends at most once anyway."""
    silent = [layer for layer in (*step.past, *step.readers) if layer not in step.attended]
    if silent:
        raise ArchitectureError(f"layers {silent} do not attend through transformers' attention interface")


def _mask_maker(name: str, positions: int) -> Any:
    def make(*_: object, config: Any = None, **arguments: Any) -> CausalMask | None:
        if name == _PADDING_MASK:
            return None
        if name not in _KNOWN_MASKS:
            raise ArchitectureError(f"the model asks for {name}; only causal and sliding masks are supported")
        extra = [key for key, value in arguments.items() if value is not None and "function" in key]
        if extra or arguments.get("block_sequence_ids") is not None:
            raise ArchitectureError(f"the model changes its causal mask ({extra or 'block_sequence_ids'})")
        if not getattr(config, "is_causal", True):
            raise ArchitectureError("the model attends in both directions (is_causal is false)")
        attribute = _KNOWN_MASKS[name]
        window = None if attribute is None else int(getattr(config, attribute))
        return CausalMask(None if window is None or window >= positions else window)

    return make


def _check_call(step: TracedStep, layer: int, key: torch.Tensor, value: torch.Tensor, mask: object, others: Any) -> int:
    """The layer in whose cache the keys and values are: itself, or one before it if it has no cache of its own."""
    if not isinstance(mask, CausalMask):
        raise ArchitectureError(f"layer {layer} attends with a mask of its own making ({type(mask).__name__})")
    unknown = [name for name, given in others.items() if given is not None and name not in _NEUTRAL_ARGUMENTS]
    if unknown or others.get("dropout") or others.get("is_causal") is False:
        raise ArchitectureError(f"layer {layer} attends with {', '.join(unknown) or 'dropout or no causality'}")
    if layer in step.attended:
        raise ArchitectureError(f"layer {layer} attends twice")
    if layer not in (*step.past, *step.readers):
        raise ArchitectureError(f"layer {layer} attends, and its config says that it has a state instead")
    owner = step.owner(key, value)
    if owner is None or (owner != layer and (layer in step.past or owner not in step.present)):
        raise ArchitectureError(f"layer {layer} attends to other keys than it puts in its cache")
    if owner not in step.past:
        raise ArchitectureError(f"layer {layer} has a KV cache, and its config says that it has none")
    past = step.past[owner][0]
    for what, heads in (("key", key), ("value", value)):
        if (heads.shape[0], heads.shape[1], heads.shape[3]) != (past.shape[0], past.shape[1], past.shape[3]):
            raise ArchitectureError(
                f"layer {layer} has {what}s of {heads.shape[1]} heads of {heads.shape[3]},"
                f" its config says {past.shape[1]} of {past.shape[3]}"
            )
    return owner


def _flat(heads: torch.Tensor) -> torch.Tensor:
    return heads.transpose(1, 2).reshape(1, heads.shape[2], heads.shape[1] * heads.shape[3])


def _length_of(tensor: torch.Tensor) -> torch.Tensor:
    return _op("Shape", [tensor], {"start": 1, "end": 2}, torch.int64, (1,))


def _op(name: str, inputs: Any, attributes: Any, dtype: torch.dtype, shape: Any) -> torch.Tensor:
    return symbolic(name, inputs, attributes, dtype=dtype, shape=shape)
