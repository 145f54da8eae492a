"""The sizes of a model from its configuration, and refusals of models that the configuration shows to be impossible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from export.manifest import ExpertShape, ModelShape, PocketspecError, WideLayers
from export.sources.config_names import config_names, find_size, read_size
from export.sources.experts import expert_shape
from export.sources.kv_layers import kv_layers
from export.sources.layer_states import layer_states

_LIMITED_ROPE = ("longrope", "dynamic")


class ArchitectureError(PocketspecError, RuntimeError):
    """A kind of model that cannot be exported; the message names the model type and the reason."""


def shape_of(config: Any, positions: int | None = None) -> ModelShape:
    """Sizes of the graph of ``config``, with at most ``positions`` positions; ArchitectureError if it is no decoder.

    A rotary embedding that changes with the length of the text (longrope, dynamic) limits positions to the length at
    which it does not change yet.
    """
    name, states = config.model_type, _states(config)
    try:
        experts = expert_shape(config)
    except ValueError as error:
        raise ArchitectureError(f"{name}: {error}") from None
    try:
        heads, hidden = read_size(config, "heads"), read_size(config, "hidden_size")
        longest = _longest(config)
        layers, vocab = read_size(config, "layers"), read_size(config, "vocab_size")
        kv_sizes = list(kv_layers(config).values())
    except AttributeError as error:
        what = f"no {error.name}" if error.name else str(error)
        raise ArchitectureError(
            f"{name}: its config has {what}; only decoders of text whose positions are rotary are supported"
        ) from None
    except TypeError as error:
        raise ArchitectureError(f"{name}: its config is not a text decoder's ({error})") from None
    if not kv_sizes:
        raise ArchitectureError(f"{name}: no layer has a KV cache of its own")
    if positions is not None and not 0 < positions <= longest:
        raise ArchitectureError(f"{name}: {positions} positions asked, allowed are 1 to {longest}")
    return ModelShape(
        layers=layers,
        hidden_size=hidden,
        mlp_size=_mlp_size(config, experts, layers) or 4 * hidden,
        heads=heads,
        kv_heads=kv_sizes[0][0],
        head_size=kv_sizes[0][1],
        vocab_size=vocab,
        positions=positions or longest,
        **_uneven_layers(name, kv_sizes, layers),
        layer_table=layers * int(getattr(config, "hidden_size_per_layer_input", None) or 0) or None,
        experts=experts,
        **states,
    )


def _mlp_size(config: Any, experts: ExpertShape | None, layers: int) -> int | None:
    """The width of the widest MLP beside experts, if the configuration has one; LFM2's code adjusts it.

    Where all layers have experts and nothing beside them it is that of an expert.
    """
    if experts is not None and experts.layers == layers:
        return int(getattr(config, "shared_intermediate_size", None) or experts.mlp_size)
    sizes = getattr(config, config_names(config.model_type)["mlp_size"], None)
    size = max(sizes) if isinstance(sizes, list | tuple) else find_size(config, "mlp_size")
    if size is None or not getattr(config, "block_auto_adjust_ff_dim", False):
        return size and size * (2 if getattr(config, "use_double_wide_mlp", False) else 1)
    multiple = config.block_multiple_of
    return -(-int(config.block_ffn_dim_multiplier * int(2 * size / 3)) // multiple) * multiple


def _states(config: Any) -> dict[str, Any]:
    """The fields of a shape for layers that have states instead of a KV cache; none if all attend."""
    try:
        states = layer_states(config)
    except ValueError as error:
        raise ArchitectureError(f"{config.model_type}: {error}") from None
    return {} if states is None else {"convolutions": states.convolutions, "recurrences": states.recurrences}


def _uneven_layers(name: str, kv_sizes: Sequence[tuple[int, int]], layers: int) -> dict[str, Any]:
    """The fields of a shape for layers without a KV cache of their own, and for those unlike the first."""
    other = [size for size in kv_sizes if size != kv_sizes[0]]
    if len(set(other)) > 1:
        raise ArchitectureError(f"{name}: heads of more than two sizes are not supported")
    return {
        "attention_layers": len(kv_sizes) if len(kv_sizes) < layers else None,
        "wide": WideLayers(len(other), *other[0]) if other else None,
    }


def refuse(config: Any, shape: ModelShape) -> None:
    """ArchitectureError for a model that its configuration alone shows to be impossible."""
    name = config.model_type
    if getattr(config, "is_encoder_decoder", False) or config.get_text_config() is not config:
        raise ArchitectureError(f"{name}: not a decoder of text alone; export its text model")
    for each in {shape, shape.widest}:
        if each.head_size % 8:
            raise ArchitectureError(f"{name}: head size {each.head_size} is not a multiple of 8")
        if each.heads % each.kv_heads:
            raise ArchitectureError(f"{name}: {each.heads} heads cannot share {each.kv_heads} key-value heads")


def _longest(config: Any) -> int:
    longest = read_size(config, "positions")
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in rope.values() if all(isinstance(part, dict) for part in rope.values()) else [rope]:
        if parameters and parameters.get("rope_type") in _LIMITED_ROPE:
            original = parameters.get("original_max_position_embeddings")
            longest = min(
                longest, int(original or getattr(config, "original_max_position_embeddings", None) or longest)
            )
    return longest
