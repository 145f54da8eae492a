"""Which layers keep keys and values of their own, and of what sizes. The last layers may read those of earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from export.sources.config_names import find_size, read_size
from export.sources.layer_states import layer_states


def kv_layers(config: Any) -> Mapping[int, tuple[int, int]]:
    """(kv_heads, head_size) of every layer that keeps keys and values, by its index.

    Layers with states keep none. Gemma 4 has layers of two sizes, and ``num_kv_shared_layers`` last layers that
    keep none. AttributeError or TypeError where a configuration has no sizes.
    """
    layers, heads = read_size(config, "layers"), read_size(config, "heads")
    own = layers - int(getattr(config, "num_kv_shared_layers", None) or 0)
    states = layer_states(config)
    by_layer = getattr(config, "per_layer_config", None)
    sizes = {}
    for layer in range(own) if states is None else states.attending:
        part = config if by_layer is None else by_layer[layer]
        head_size = find_size(part, "head_size") or read_size(config, "hidden_size") // heads
        sizes[layer] = (find_size(part, "kv_heads") or heads, head_size)
    return sizes
