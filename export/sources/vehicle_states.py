"""How the layers with recurrent states of a small hybrid grow in a timing vehicle (``timing_vehicle``).

Heads of values stay with their heads of keys, as query heads do, and the entries of a head stay where they are: keys
and queries are normalized by their own length, which zeros do not change. The scale of wider queries, and the mean over
more values, end in the norm behind the recurrence, whose gains undo them. Added heads have no values and no readers.

Covered: the gated delta rule of Qwen3.5. Its attention has gated queries with norms, and turns a part of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from export.manifest import RecurrenceShape
from export.sources.layer_states import layer_states
from export.sources.vehicle_sizes import DecoderSizes, Indices, VehicleError, count_groups, head_places, load_like

HYBRID = "qwen3_5_text"


def recurrences_of(config: Any) -> RecurrenceShape | None:
    """The recurrent states of a configuration; None if it has none, or states of another kind alone."""
    try:
        states = layer_states(config)
    except ValueError as error:
        raise VehicleError(f"{config.model_type}: {error}; choose another model") from None
    return None if states is None else states.recurrences


def fit_states(old: RecurrenceShape, like: str | Mapping[str, int]) -> RecurrenceShape:
    """The states of the vehicle: those of the name ``like``, with heads of keys that hold those of ``old``.

    As they are where ``like`` names decoder sizes alone. VehicleError for a model that has none, or smaller ones.
    """
    if not isinstance(like, str):
        return old
    wanted = recurrences_of(load_like(like))
    if wanted is None:
        raise VehicleError(
            f"{like} has no recurrent states to size those of a hybrid by; name one that has: qwen3.5-0.8b"
        )
    for name in ("heads", "key_size", "value_size"):
        have, need = getattr(wanted, name), getattr(old, name)
        if have < need:
            raise VehicleError(
                f"states can only grow: {name} {have} of {like} is less than {need}; choose a larger one"
            )
    return replace(wanted, key_heads=count_groups((old.heads, old.key_heads), (wanted.heads, wanted.key_heads)))


def state_maps(old: RecurrenceShape, new: RecurrenceShape) -> dict[str, Indices]:
    """For each axis of the tensors of such a layer, the new index of every old one."""
    heads = head_places((old.heads, old.key_heads), (new.heads, new.key_heads))
    values = (heads[:, None] * new.value_size + np.arange(old.value_size)).reshape(-1)
    keys = (np.arange(old.key_heads)[:, None] * new.key_size + np.arange(old.key_size)).reshape(-1)
    all_keys = new.key_heads * new.key_size
    return {
        "state_heads": heads,
        "state_values": values,
        "state_value": np.arange(old.value_size),
        "state_channels": np.concatenate([keys, all_keys + keys, 2 * all_keys + values]),
    }


def hybrid_fields(config: Any, old: DecoderSizes, new: DecoderSizes, states: RecurrenceShape) -> dict[str, Any]:
    """The fields of the enlarged configuration beside a decoder's sizes; added layers repeat the pattern of kinds."""
    rope, step = dict(config.rope_parameters), new.head_size // old.head_size
    if "mrope_section" in rope:
        rope["mrope_section"] = [part * step for part in rope["mrope_section"]]
    return {
        "layer_types": [config.layer_types[layer % old.layers] for layer in range(new.layers)],
        "rope_parameters": rope,
        "linear_num_key_heads": states.key_heads,
        "linear_num_value_heads": states.heads,
        "linear_key_head_dim": states.key_size,
        "linear_value_head_dim": states.value_size,
    }
