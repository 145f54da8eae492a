"""The sizes of a timing vehicle, and the places that the entries of the small model have in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from export.manifest import PocketspecError
from export.sources.config_names import find_size, read_size, spell_sizes
from export.sources.targets import load_config, resolve

Indices = npt.NDArray[np.int64]
# The spare entry must not share a block, hence a scale of int4 weights or int8 activations, with the old entries.
_SPARE = 256


class VehicleError(PocketspecError, ValueError):
    """A model that cannot be enlarged exactly, or sizes it does not fit into."""


@dataclass(frozen=True)
class DecoderSizes:
    """The sizes that determine the cost of a decoder. ``kv_heads`` changes if the small model's groups do not fit."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int


def sizes_of(config: Any) -> DecoderSizes:
    """The sizes in a transformers configuration."""
    hidden, heads = read_size(config, "hidden_size"), read_size(config, "heads")
    return DecoderSizes(
        hidden=hidden,
        mlp=read_size(config, "mlp_size"),
        layers=read_size(config, "layers"),
        heads=heads,
        kv_heads=find_size(config, "kv_heads") or heads,
        head_size=find_size(config, "head_size") or hidden // heads,
        vocabulary=read_size(config, "vocab_size"),
    )


def check_rotary(config: Any) -> None:
    """VehicleError for a rotary embedding whose angles would be others in a wider head."""
    rope = config.rope_parameters["rope_type"]
    if rope not in ("default", "linear", "llama3"):
        raise VehicleError(f"a {rope} rotary embedding depends on the head size; expected default, linear or llama3")


def wanted_sizes(like: str | Mapping[str, int], old: DecoderSizes) -> DecoderSizes:
    """See ``Vehicle``: the sizes ``like``, those that it leaves out being the ``old`` ones."""
    names = [field.name for field in fields(DecoderSizes)]
    if not isinstance(like, str):
        if unknown := set(like) - set(names):
            raise VehicleError(f"no size {min(unknown)!r}; the sizes are: {', '.join(names)}")
        return DecoderSizes(**{name: int(like.get(name, getattr(old, name))) for name in names})
    return sizes_of(load_like(like))


def load_like(like: str) -> Any:
    """The configuration of the known name or the folder ``like``."""
    target = resolve(like)
    if target.config_path is None:
        raise VehicleError(f"the sizes of {like!r} are not at hand; give a known name or the folder of a checkpoint")
    return load_config(target.config_path)


def fit_sizes(old: DecoderSizes, wanted: DecoderSizes, keep_groups: bool) -> DecoderSizes:
    """``wanted`` with key heads that hold those of ``old``; VehicleError where the small model does not fit."""
    for name in ("hidden", "mlp", "layers", "heads", "head_size", "vocabulary"):
        have, need = getattr(wanted, name), getattr(old, name)
        if have < need:
            raise VehicleError(
                f"{name} can only grow: {have} is less than the small model's {need}; choose a larger one"
            )
    if wanted.head_size % old.head_size:
        raise VehicleError(f"head_size {wanted.head_size} is not a multiple of {old.head_size}; choose one that is")
    if wanted.vocabulary > old.vocabulary and wanted.hidden < old.hidden + _SPARE:
        raise VehicleError(
            f"a larger vocabulary needs room: hidden {wanted.hidden} must be {old.hidden + _SPARE} or more"
        )
    if keep_groups and wanted.heads * wanted.head_size != wanted.hidden:
        raise VehicleError(f"heads * head_size must be hidden for BitNet: {wanted.heads} * {wanted.head_size}")
    kv_heads = count_groups((old.heads, old.kv_heads), (wanted.heads, wanted.kv_heads), keep_groups)
    return DecoderSizes(**{**vars(wanted), "kv_heads": kv_heads})


def count_groups(old: tuple[int, int], wanted: tuple[int, int], keep_groups: bool = False) -> int:
    """The number of key heads nearest to the wanted one that holds the old heads in their groups.

    ``old`` and ``wanted`` are numbers of heads and of key heads; with ``keep_groups`` groups stay as large as they are.
    """
    (heads, key_heads), (wanted_heads, wanted_key_heads) = old, wanted
    group = heads // key_heads
    counts = [
        count
        for count in range(key_heads, wanted_heads // group + 1)
        if wanted_heads % count == 0 and (not keep_groups or wanted_heads == count * group)
    ]
    if not counts:
        raise VehicleError(
            f"{wanted_heads} heads cannot hold {heads} heads in {key_heads} groups; choose a multiple of {group}"
        )
    return min(counts, key=lambda count: (abs(count - wanted_key_heads), count))


def head_places(old: tuple[int, int], new: tuple[int, int]) -> Indices:
    """The new number of every old head; ``old`` and ``new`` are numbers of heads and of key heads."""
    group, new_group = old[0] // old[1], new[0] // new[1]
    return np.array([(head // group) * new_group + head % group for head in range(old[0])])


def enlarged_config(config: Any, old: DecoderSizes, new: DecoderSizes, positions: int | None) -> Any:
    """``config`` with the sizes ``new`` and the longest context ``positions`` (None: its own)."""
    data = config.to_dict()
    data.pop("layer_types", None)
    data |= spell_sizes(
        config.model_type,
        hidden_size=new.hidden,
        mlp_size=new.mlp,
        layers=new.layers,
        heads=new.heads,
        kv_heads=new.kv_heads,
        head_size=new.head_size,
        vocab_size=new.vocabulary,
        positions=positions or read_size(config, "positions"),
    )
    data["rms_norm_eps"] = config.rms_norm_eps * old.hidden / new.hidden
    return type(config).from_dict(data)


def axis_maps(old: DecoderSizes, new: DecoderSizes, turned: float = 1.0) -> dict[str, Indices]:
    """For each axis of a matrix, the new index of every old one; the first ``turned`` of a head is rotary.

    Rows of gated queries have a head's queries and then its gates.
    """
    query_heads = head_places((old.heads, old.kv_heads), (new.heads, new.kv_heads))
    plain = np.arange(old.head_size)
    # Pair (i, i + half) turns at theta ** (-2 i / size), so in a head ``step`` times as wide its index is i * step.
    size, step = int(old.head_size * turned), new.head_size // old.head_size
    pairs, half = np.arange(size // 2) * step, size // 2 * step
    rotary = np.concatenate([pairs, half + pairs, size * step + np.arange(old.head_size - size)])
    kv_heads = np.arange(old.kv_heads)

    def places(heads: Indices, dimensions: Indices, size: int = new.head_size) -> Indices:
        return (heads[:, None] * size + dimensions).reshape(-1)

    return {
        "vocabulary": np.arange(old.vocabulary),
        "hidden": np.arange(old.hidden),
        "mlp": np.arange(old.mlp),
        "query": places(query_heads, rotary),
        "gated_query": places(query_heads, np.concatenate([rotary, new.head_size + plain]), 2 * new.head_size),
        "head": rotary,
        "key": places(kv_heads, rotary),
        "value": places(kv_heads, plain),
        "heads": places(query_heads, plain),
    }
