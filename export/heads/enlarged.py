"""An EAGLE-3 head beside an enlarged target: it costs as much as a head of that shape, and drafts as the small one.

It grows as its target does (``sources.timing_vehicle``); the rows that it reads are those of the small target, at their
places. Its output matrix is one of its own, so old logits stay as they are. Added tokens must not be drafted: one spare
entry of its stream gets a constant in every row, from a bias that its attention's output has none of otherwise, and the
final norm makes that a number which their rows of the output matrix turn into a logit far below all others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from export.heads.eagle3 import eagle3_head
from export.heads.head import Head, HeadError, parameter_shapes
from export.sources.config_names import read_size
from export.sources.tensor_source import FloatArray, TensorSource
from export.sources.timing_vehicle import CONSTANT, MATRIX_AXES, query_scale, scattered_rows, wider_gains
from export.sources.vehicle_sizes import (
    Indices,
    VehicleError,
    axis_maps,
    check_rotary,
    enlarged_config,
    fit_sizes,
    sizes_of,
    wanted_sizes,
)

# Logits of added tokens where the stream has a root mean square of one. Streams of 0.001 to 10,000 give -1e9 to -100.
_LOWEST = -1e6
_SPARE_BIAS, _BIASES = "model.layers.0.self_attn.o_proj.bias", "attention_bias"


def enlarged_head(small: Head, like: str | Mapping[str, int], target: Any) -> Head:
    """``small`` enlarged beside ``target``, the configuration of its target enlarged to ``like``.

    HeadError or VehicleError where it cannot be, or would cost another amount than it seems to.
    """
    config = small.config
    if config.model_type != "llama":
        raise HeadError(f"an EAGLE-3 head of {config.model_type} layers cannot be enlarged exactly; expected llama")
    check_rotary(config)
    if biased := [name for name in (_BIASES, "mlp_bias", "fc_bias") if getattr(config, name, False)]:
        raise VehicleError(f"this EAGLE-3 head cannot be enlarged: {biased[0]} is set; choose one without")
    if small.tokens != config.vocab_size:
        raise HeadError(
            f"an EAGLE-3 head with a draft vocabulary of {small.tokens} would cost too little beside a vocabulary of"
            f" {read_size(target, 'vocab_size')}; enlarge a whole one, with --draft-vocab"
        )
    old = sizes_of(config)
    new = fit_sizes(old, replace(wanted_sizes(like, old), layers=1), keep_groups=False)
    large = enlarged_config(config, old, new, None)
    large.draft_vocab_size, large.target_hidden_size = new.vocabulary, new.hidden
    large.eagle_config, large.eagle_aux_hidden_state_layer_ids = None, list(small.reads)
    if new.vocabulary > old.vocabulary:
        setattr(large, _BIASES, True)
    return replace(eagle3_head(large, target), small=small)


class EnlargedTensors:
    """A ``TensorSource`` for the module of ``head``, enlarged: those of its small one, ``small``."""

    def __init__(self, head: Head, small: TensorSource) -> None:
        assert head.small is not None
        self._small, self._shapes = small, parameter_shapes(head)
        self._old, self._new = sizes_of(head.small.config), sizes_of(head.config)
        self._maps = axis_maps(self._old, self._new)
        hidden = self._maps["hidden"]
        self._maps["features"] = _side_by_side(hidden, self._new.hidden, len(head.reads))
        self._maps["read"] = _side_by_side(hidden, self._new.hidden, 2)

    def names(self) -> Collection[str]:
        """Every parameter of the module."""
        return self._shapes.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """See ``TensorSource``."""
        return self._shapes[name]

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        """See ``TensorSource``."""
        shape = self.shape(name)
        last = shape[0] if last is None else last
        if name.endswith(".bias"):
            return self._bias(name)[first:last]
        if len(shape) == 1:
            return self._norm(name)[first:last]
        module = name.split(".")[-2]
        row_axis, column_axis = _AXES[module]
        places = self._maps[row_axis], self._maps[column_axis]
        out = scattered_rows(self._small, name, places, (first, last), shape[1])
        if module == "lm_head" and self._adds_tokens:
            out[max(self._old.vocabulary - first, 0) :, -1] = -1
        return out * query_scale(self._old, self._new) if row_axis == "query" else out

    @property
    def _adds_tokens(self) -> bool:
        return self._new.vocabulary > self._old.vocabulary

    def _bias(self, name: str) -> FloatArray:
        bias = np.zeros(self.shape(name), np.float32)
        if name == _SPARE_BIAS:
            bias[-1] = CONSTANT
        return bias

    def _norm(self, name: str) -> FloatArray:
        gains = wider_gains(self._small.read(name), self._maps["hidden"], self.shape(name)[0])
        if name == "final_norm.weight" and self._adds_tokens:
            gains[-1] = -_LOWEST / CONSTANT
        return gains


_READ = {name: (rows, "read") for name, (rows, _) in MATRIX_AXES.items() if name in ("q_proj", "k_proj", "v_proj")}
_AXES = {**MATRIX_AXES, **_READ, "lm_head": ("vocabulary", "hidden"), "fc": ("hidden", "features")}


def _side_by_side(places: Indices, width: int, count: int) -> Indices:
    """The places of ``count`` rows that are ``width`` wide, side by side."""
    return np.concatenate([part * width + places for part in range(count)])
