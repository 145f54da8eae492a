"""Lowers the states of layers that do not attend: causal convolutions and linear recurrences.

transformers' layers ask their cache for what came before and hand it to a function of their module. Both are replaced.
The cache hands out markers, and the functions put one operator of ours into the graph: ``ShortConvolution`` or
``LinearRecurrence``, which read the layer's past state and write the present one. ``export.graph.state_functions``
defines both by standard operators, and the native kernels have them built in.

A convolution keeps its last rows: the row of position p in slot p modulo the number of slots. So rows are taken back by
a length alone. A recurrence keeps the state of an earlier position, its base, and the updates of the rows since. Every
step repeats ``replay[0]`` of these updates before its own rows, with the same arithmetic as when they were new. The
base then moves on by ``replay[1]`` rows, and the updates of all later ones are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.onnx.ops import symbolic_multi_out

from export.graph.state_functions import CONVOLUTION, DOMAIN, RECURRENCE
from export.sources.model_shape import ArchitectureError

# What transformers adds to a sum of squares before its root, in the gated delta rule.
_NORM_EPSILON = 1e-6


@dataclass
class TracedStates:
    """The states of the layers of one traced forward.

    By layer: ``rows`` float32 ``[1, slots, channels]``, ``bases`` float32 ``[1, heads, key_size, value_size]`` and
    ``updates`` float32 ``[1, held, update_size]``. ``replay`` is int64 ``[2]``, ``length`` the total length, int64
    ``[1]``. ``present`` has by the name of an output what the layers have written.
    """

    rows: dict[int, torch.Tensor]
    bases: dict[int, torch.Tensor]
    updates: dict[int, torch.Tensor]
    replay: torch.Tensor | None
    length: torch.Tensor
    present: dict[str, torch.Tensor] = field(default_factory=dict)

    def convolve(
        self, layer: int, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str | None
    ) -> torch.Tensor:
        """The causal convolution of ``x`` ``[1, S, channels]`` by ``weight`` ``[channels, width]``."""
        past = self.rows[layer]
        attributes = {"width": weight.shape[1], "silu": int(activation is not None)}
        y, self.present[f"present_conv.{layer}"] = symbolic_multi_out(
            f"{DOMAIN}::{CONVOLUTION}",
            [x, weight.transpose(0, 1), bias, past, self.length],
            attributes,
            dtypes=(torch.float32,) * 2,
            shapes=(x.shape, past.shape),
            version=1,
        )
        return y

    def recur(self, layer: int, rows: Sequence[torch.Tensor], scale: float, epsilon: float) -> torch.Tensor:
        """The recurrence over ``rows``: queries, keys, values, log decays and, for the delta rule, rates (beta).

        Each is ``[1, S, heads * size]`` (decays and rates ``[1, S, heads]``), the result like the values. Queries and
        keys are normalized first unless ``epsilon`` is 0.
        """
        base, updates = self.bases[layer], self.updates[layer]
        attributes = {
            "key_heads": rows[1].shape[-1] // base.shape[2],
            "scale": scale,
            "epsilon": epsilon,
        }
        inputs = [*rows, *([None] if len(rows) == 4 else []), base, updates, self.replay]
        y, self.present[f"present_recurrent.{layer}"], self.present[f"present_updates.{layer}"] = symbolic_multi_out(
            f"{DOMAIN}::{RECURRENCE}",
            inputs,
            attributes,
            dtypes=(torch.float32,) * 3,
            shapes=(rows[2].shape, base.shape, updates.shape),
            version=1,
        )
        return y


@dataclass(frozen=True)
class _Rows:
    """Marks the input ``x`` ``[1, channels, S]`` of a convolution with what came before it."""

    states: TracedStates
    layer: int
    x: torch.Tensor
    width: int


@dataclass(frozen=True)
class _Convolved:
    """Marks the result of a convolution, of which a model wants the last S rows: there are no others."""

    y: torch.Tensor

    def __getitem__(self, index: Any) -> torch.Tensor:
        if index == (slice(None), slice(None), slice(-self.y.shape[2], None, None)):
            return self.y
        raise ArchitectureError("a convolution's result is used otherwise than by its last rows")


@dataclass(frozen=True)
class _LayerState:
    """Marks the recurrent state of a layer: before a step, or, if ``is_present``, after it."""

    states: TracedStates
    layer: int
    is_present: bool = False


class StateCache:
    """The part of the traced cache that layers with states use. ``states`` None: the graph has none."""

    states: TracedStates | None = None

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> None:
        """None, so that a layer takes the path for any number of rows."""
        self._check(layer_idx, state_idx)

    def update_conv_state(self, rows: torch.Tensor, layer_idx: int, state_idx: int = 0, **sizes: Any) -> Any:
        """A marker for ``rows`` ``[1, channels, S]`` behind those of the layer's state."""
        states = self._check(layer_idx, state_idx)
        return _Rows(states, layer_idx, rows, int(sizes["conv_kernel_size"]))

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Any:
        """A marker for the layer's state."""
        return _LayerState(self._check(layer_idx, state_idx), layer_idx)

    def update_recurrent_state(self, state: Any, layer_idx: int, state_idx: int = 0, **_: Any) -> None:
        """Checks that the layer stores what its recurrence gave."""
        if state != _LayerState(self._check(layer_idx, state_idx), layer_idx, is_present=True):
            raise ArchitectureError(f"layer {layer_idx} stores another state than its recurrence gives")

    def _check(self, layer: int, index: int) -> TracedStates:
        states = self.states
        if states is None or layer not in states.rows or index:
            raise ArchitectureError(f"layer {layer} has a state that its config does not tell of")
        return states


@contextmanager
def states_lowered(namespaces: Sequence[Any]) -> Iterator[None]:
    """A context in which the functions of the modules ``namespaces`` that run over states give our operators."""
    with ExitStack() as stack:
        for namespace in namespaces:
            for name, function in _FUNCTIONS.items():
                if hasattr(namespace, name):
                    stack.enter_context(mock.patch.object(namespace, name, function))
        yield


def check_states(states: TracedStates | None, layers: int) -> list[torch.Tensor]:
    """The present states of ``layers`` layers in the order of ``state_names``; ArchitectureError if one lacks."""
    if states is None:
        return []
    names = state_names("present", states.rows, states.bases)
    if missing := [name for name in names if name not in states.present]:
        raise ArchitectureError(f"of its {layers} layers one does not write its state {missing[0]}")
    return [states.present[name] for name in names]


def state_names(time: str, rows: Sequence[int] | dict[int, Any], bases: Sequence[int] | dict[int, Any]) -> list[str]:
    """The graph's names for states, ``time`` being "past" or "present": of ``rows`` by layer, then of ``bases``."""
    conv = [f"{time}_conv.{layer}" for layer in rows]
    return [*conv, *(f"{time}_{kind}.{layer}" for kind in ("recurrent", "updates") for layer in bases)]


def _convolution(x: Any, weight: torch.Tensor, bias: Any = None, activation: Any = None, **_: Any) -> _Convolved:
    """In place of transformers' ``causal_conv1d_fn``; ``weight`` is ``[channels, width]``."""
    if not isinstance(x, _Rows) or x.width != weight.shape[-1]:
        raise ArchitectureError("a convolution runs over other rows than those of the cache")
    if activation not in (None, "silu", "swish"):
        raise ArchitectureError(f"a convolution has the activation {activation}; silu and none are supported")
    y = x.states.convolve(x.layer, x.x.transpose(1, 2), weight, bias, activation)
    return _Convolved(y.transpose(1, 2))


def _delta_rule(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    initial_state: Any = None,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, _LayerState]:
    """In place of transformers' ``torch_chunk_gated_delta_rule``: heads ``[1, S, heads, size]``."""
    state = _past(initial_state)
    rows = [*(_flat(heads) for heads in (query, key, value)), g, beta]
    epsilon = _NORM_EPSILON if use_qk_l2norm_in_kernel else 0.0
    y = state.states.recur(state.layer, rows, key.shape[-1] ** -0.5, epsilon)
    return y.reshape(value.shape), _LayerState(state.states, state.layer, is_present=True)


def _scan(
    hidden: torch.Tensor,
    dt: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    initial_states: Any = None,
    **others: Any,
) -> tuple[torch.Tensor, _LayerState]:
    """In place of transformers' ``mamba2_chunk_scan``: ``hidden`` ``[1, S, heads, size]``, ``dt`` ``[1, S, heads]``."""
    state = _past(initial_states)
    if others.get("dt_bias") is not None:
        dt = dt + others["dt_bias"]
    if others.get("dt_softplus"):
        dt = torch.nn.functional.softplus(dt)
    low, high = others.get("dt_limit", (0.0, float("inf")))
    if low > 0 or high != float("inf"):  # softplus is never negative
        dt = torch.clamp(dt, min=low, max=high)
    rows = [_flat(c), _flat(b), _flat(hidden * dt[..., None]), dt * a]
    y = state.states.recur(state.layer, rows, 1.0, 0.0).reshape(hidden.shape)
    if others.get("D") is not None:
        y = y + hidden * others["D"][:, None]
    return y, _LayerState(state.states, state.layer, is_present=True)


def _past(state: Any) -> _LayerState:
    if not isinstance(state, _LayerState) or state.is_present:
        raise ArchitectureError("a recurrence does not begin with the state of the cache")
    return state


def _flat(heads: torch.Tensor) -> torch.Tensor:
    return heads.reshape(*heads.shape[:2], heads.shape[2] * heads.shape[3])


_FUNCTIONS = {
    "causal_conv1d_fn": _convolution,
    "torch_chunk_gated_delta_rule": _delta_rule,
    "mamba2_chunk_scan": _scan,
}
