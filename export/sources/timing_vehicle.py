"""A timing vehicle: a small trained model in the shapes of a large one. It costs as much, and its text is unchanged.

Without large trained weights, it times a whole speculative stack with real acceptance. Its numbers are labelled "timing
vehicle", because it is not a trained large model. How each part grows:

- Matrices are scattered into zeros: new entries of the residual stream, of the MLP and of heads stay zero.
- A norm's mean runs over more entries, so gains shrink by sqrt(old / new width) and epsilon by old / new width.
- A wider head has another attention scale, which larger query weights undo. A rotary pair moves to the index with the
  same frequency, so the new head size is a multiple of the old one.
- Query heads stay with their key heads. There are at least as many key heads as before, with groups at least as large.
- Added layers read the stream with random weights and write zeros back.
- Added tokens would have logit 0, which may be the largest. So one spare entry of the stream carries a constant that is
  too small to change any norm; the last norm multiplies it, and the embeddings of added tokens are -1 there. An added
  token then has a logit of about -100 and is never sampled; all old logits shift by the same amount, about 1e-5.

Covered: LlamaForCausalLM, BitNetForCausalLM and Qwen3.5 (``vehicle_states``) with a tied head. BitNet's inner norms run
over all heads, so its groups keep their size; its weights are ternary, which int4 stores exactly. Qwen3.5 has one
epsilon, which so shrinks for the norms inside of heads as well, by another factor than their width asks for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from export.sources.random_weights import RandomWeights
from export.sources.tensor_source import FloatArray, TensorSource
from export.sources.vehicle_sizes import (
    DecoderSizes,
    Indices,
    VehicleError,
    axis_maps,
    check_rotary,
    enlarged_config,
    fit_sizes,
    sizes_of,
    wanted_sizes,
)
from export.sources.vehicle_states import HYBRID, fit_states, hybrid_fields, recurrences_of, state_maps

# The constant in the stream, which float16 can just hold; and the logit of an added token if the stream did not grow.
# In the models tried it grows 2 to 8 times, so these logits are between -400 and -100.
CONSTANT, _LOWEST = 6e-8, -1000.0


class Vehicle:
    """A ``TensorSource``: ``small`` (described by ``small_config``) enlarged to the sizes ``like``.

    ``like`` is a known name or a mapping of fields of ``DecoderSizes``, those left out staying as they are.
    ``positions`` is the longest context (None: the small model's); beyond that the text degrades, while cost and memory
    are right. ``config`` is the enlarged configuration.
    """

    def __init__(
        self,
        small: TensorSource,
        small_config: Any,
        like: str | Mapping[str, int],
        positions: int | None = None,
    ) -> None:
        _check_model(small_config)
        self._small, self._old = small, sizes_of(small_config)
        wanted = wanted_sizes(like, self._old)
        self._new = fit_sizes(self._old, wanted, keep_groups=small_config.model_type == "bitnet")
        self.config = enlarged_config(small_config, self._old, self._new, positions)
        turned = small_config.rope_parameters.get("partial_rotary_factor", 1.0)
        self._maps = axis_maps(self._old, self._new, turned)
        self._is_hybrid = small_config.model_type == HYBRID
        if self._is_hybrid and (states := recurrences_of(small_config)) is not None:
            grown = fit_states(states, like)
            self._maps |= state_maps(states, grown)
            self.config.update(hybrid_fields(small_config, self._old, self._new, grown))
        self._filler = RandomWeights(self.config)

    def names(self) -> Collection[str]:
        """Every tensor of the enlarged model."""
        return self._filler.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._filler.shape(name)

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        """Rows ``first`` to ``last`` (exclusive, None: all), made when asked for."""
        shape = self.shape(name)
        last = shape[0] if last is None else last
        if self._is_added(name):
            if name.endswith(_BACK_TO_STREAM):
                return np.zeros((last - first, *shape[1:]), np.float32)
            return self._filler.read(name, first, last)
        if (part := _part(name)) in _ROW_AXES:
            return scattered_entries(self._small, name, self._maps[_ROW_AXES[part]], (first, last), shape)
        if len(shape) == 1:
            return self._norm(name)[first:last]
        rows = self._scattered(name, first, last)
        if name == "model.embed_tokens.weight" and self._adds_tokens:
            split = max(0, min(last, self._old.vocabulary) - first)
            rows[:split, -1], rows[split:, -1] = CONSTANT, -1
        return rows

    @property
    def _adds_tokens(self) -> bool:
        return self._new.vocabulary > self._old.vocabulary

    def _is_added(self, name: str) -> bool:
        parts = name.split(".")
        return parts[1] == "layers" and int(parts[2]) >= self._old.layers

    def _norm(self, name: str) -> FloatArray:
        """Gains for a mean over more entries: those of the old entries at their new places, zero elsewhere."""
        part = _part(name)
        # Qwen3.5 stores gains minus one, but for the norm behind a recurrence.
        offset = np.float32(self._is_hybrid and not name.endswith("linear_attn.norm.weight"))
        axis = "state_value" if name.endswith("linear_attn.norm.weight") else _NORM_AXES.get(part, "hidden")
        gains = wider_gains(self._small.read(name) + offset, self._maps[axis], self.shape(name)[0])
        if part == "q_norm":
            gains *= query_scale(self._old, self._new)
        if name == "model.norm.weight" and self._adds_tokens:
            gains[-1] = -_LOWEST / CONSTANT * self._embedding_scale() * math.sqrt(self._old.hidden / len(gains))
        return gains - offset

    def _embedding_scale(self) -> float:
        """Root mean square of the small model's embedding, with which the stream begins."""
        values = self._small.read("model.embed_tokens.weight")
        return float(np.sqrt(np.mean(np.square(values))))

    def _scattered(self, name: str, first: int, last: int) -> FloatArray:
        row_axis, column_axis = MATRIX_AXES[_part(name)]
        if row_axis == "query" and self._is_hybrid:
            row_axis = "gated_query"  # behind it is a norm, which has the scale instead
        rows, columns = self._maps[row_axis], self._maps[column_axis]
        out = scattered_rows(self._small, name, (rows, columns), (first, last), self.shape(name)[1])
        return out * query_scale(self._old, self._new) if row_axis == "query" else out


def scattered_rows(
    small: TensorSource, name: str, places: tuple[Indices, Indices], wanted: tuple[int, int], width: int
) -> FloatArray:
    """Rows ``wanted`` (first, last) of a matrix ``width`` wide: zeros with the entries of ``small`` at their places.

    ``places`` are the new rows and the new columns of the old ones.
    """
    (rows, columns), (first, last) = places, wanted
    out = np.zeros((last - first, width), np.float32)
    old_rows = np.flatnonzero((rows >= first) & (rows < last))
    if len(old_rows):
        low, high = int(old_rows.min()), int(old_rows.max()) + 1
        out[np.ix_(rows[old_rows] - first, columns)] = small.read(name, low, high)[old_rows - low]
    return out


def scattered_entries(
    small: TensorSource, name: str, places: Indices, wanted: tuple[int, int], shape: tuple[int, ...]
) -> FloatArray:
    """Entries ``wanted`` (first, last) of the first axis of a tensor of ``shape``, whose other axes do not grow.

    ``places`` are those of the entries of ``small``; elsewhere are zeros.
    """
    first, last = wanted
    out = np.zeros((last - first, *shape[1:]), np.float32)
    inside = (places >= first) & (places < last)
    out[places[inside] - first] = small.read(name)[inside]
    return out


def query_scale(old: DecoderSizes, new: DecoderSizes) -> np.float32:
    """What undoes the attention scale of wider heads, in query weights."""
    return np.float32(math.sqrt(new.head_size / old.head_size))


def wider_gains(gains: FloatArray, entries: Indices, width: int) -> FloatArray:
    """``gains`` of a norm at ``entries`` of ``width``, for a mean over that many; zero elsewhere."""
    wide = np.zeros(width, np.float32)
    wide[entries] = gains * math.sqrt(len(entries) / width)
    return wide


# By module: what the rows and the columns of its matrix are.
MATRIX_AXES = {
    "embed_tokens": ("vocabulary", "hidden"),
    "q_proj": ("query", "hidden"),
    "k_proj": ("key", "hidden"),
    "v_proj": ("value", "hidden"),
    "o_proj": ("hidden", "heads"),
    "gate_proj": ("mlp", "hidden"),
    "up_proj": ("mlp", "hidden"),
    "down_proj": ("hidden", "mlp"),
    "in_proj_qkv": ("state_channels", "hidden"),
    "in_proj_z": ("state_values", "hidden"),
    "in_proj_a": ("state_heads", "hidden"),
    "in_proj_b": ("state_heads", "hidden"),
    "out_proj": ("hidden", "state_values"),
}
# What the entries of other tensors are, whose other axes stay.
_ROW_AXES = {"conv1d": "state_channels", "A_log": "state_heads", "dt_bias": "state_heads"}
_NORM_AXES = {"attn_sub_norm": "heads", "ffn_sub_norm": "mlp", "q_norm": "head", "k_norm": "head"}
# Matrices of added layers that are zero.
_BACK_TO_STREAM = ("o_proj.weight", "down_proj.weight", "out_proj.weight")


def _part(name: str) -> str:
    """The part of a layer that a tensor belongs to: ``q_proj`` of ``model.layers.0.self_attn.q_proj.weight``."""
    return name.removesuffix(".weight").rpartition(".")[2]


def _check_model(config: Any) -> None:
    if config.model_type not in ("llama", "bitnet", HYBRID):
        raise VehicleError(
            f"a {config.model_type} model cannot be enlarged exactly; expected llama, bitnet or {HYBRID}"
        )
    check_rotary(config)
    biased = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    if biased or not config.tie_word_embeddings:
        reason = f"{biased[0]} is set" if biased else "its head is not tied to its embedding"
        raise VehicleError(f"this {config.model_type} model cannot be enlarged: {reason}; choose a tied one, no biases")
