"""Which layers of a model attend, and which have convolution or recurrent states, from its configuration.

transformers writes the kind of every layer into ``layer_types``. What a kind other than attention keeps from row to row
is read from each family's own fields: LFM2's short convolutions, Qwen's gated delta rule, Granite's Mamba-2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from export.manifest import ConvolutionShape, RecurrenceShape

_ATTENDING = {"full_attention", "sliding_attention", "attention", "chunked_attention"}


@dataclass(frozen=True)
class StatefulLayers:
    """``attending``: the layers with a KV cache. The others have ``convolutions``, and ``recurrences`` if not None."""

    attending: tuple[int, ...]
    convolutions: ConvolutionShape
    recurrences: RecurrenceShape | None = None


def layer_states(config: Any) -> StatefulLayers | None:
    """The states of a model of ``config``; None if all layers attend.

    ValueError for layers of a kind that is not known, or that the family is not known to have.
    """
    kinds = list(getattr(config, "layer_types", None) or ())[: config.num_hidden_layers] if _has_kinds(config) else []
    others = sorted({kind for kind in kinds if kind not in _ATTENDING})
    if not others:
        return None
    if len(others) > 1 or others[0] not in _KINDS:
        known = ", ".join(sorted({*_ATTENDING, *_KINDS}))
        raise ValueError(f"it has layers of the kind {_shown(others)}; known are {known}, one kind beside attention")
    attending = tuple(layer for layer, kind in enumerate(kinds) if kind in _ATTENDING)
    try:
        convolutions, recurrences = _KINDS[others[0]](config, len(kinds) - len(attending))
    except AttributeError as error:
        raise ValueError(f"it has layers of the kind {others[0]}, and its config lacks their {error.name}") from None
    return StatefulLayers(attending, convolutions, recurrences)


def _has_kinds(config: Any) -> bool:
    return isinstance(getattr(config, "layer_types", None), list | tuple) and hasattr(config, "num_hidden_layers")


def _shown(kinds: list[str]) -> str:
    return " and ".join(repr(kind)[:40] for kind in kinds[:3])


_Shapes = tuple[ConvolutionShape, RecurrenceShape | None]


def _short_convolution(config: Any, layers: int) -> _Shapes:
    """LFM2: a convolution over all channels and nothing else."""
    return ConvolutionShape(layers, config.hidden_size, config.conv_L_cache), None


def _linear_attention(config: Any, layers: int) -> _Shapes:
    """Qwen's gated delta rule, or Mamba-2: a convolution over queries, keys and values, and a recurrent state."""
    if hasattr(config, "mamba_n_heads"):
        heads, groups, size = config.mamba_n_heads, config.mamba_n_groups, config.mamba_d_state
        channels = int(config.mamba_expand * config.hidden_size) + 2 * groups * size
        recurrence = RecurrenceShape(layers, heads, groups, size, config.mamba_d_head)
        return ConvolutionShape(layers, channels, config.mamba_d_conv), recurrence
    key_heads, heads = config.linear_num_key_heads, config.linear_num_value_heads
    key_size, value_size = config.linear_key_head_dim, config.linear_value_head_dim
    channels = 2 * key_heads * key_size + heads * value_size
    recurrence = RecurrenceShape(layers, heads, key_heads, key_size, value_size)
    return ConvolutionShape(layers, channels, config.linear_conv_kernel_dim), recurrence


_KINDS: Mapping[str, Callable[[Any, int], _Shapes]] = {
    "conv": _short_convolution,
    "linear_attention": _linear_attention,
    "mamba": _linear_attention,
}
