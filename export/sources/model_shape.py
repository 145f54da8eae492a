"""The sizes of a model from its configuration, and refusals of models that the configuration shows to be impossible."""

from __future__ import annotations

from typing import Any

from export.manifest import ModelShape, PocketspecError
from export.sources.config_names import find_size, read_size
from export.sources.layer_states import layer_states

# What configs of models with experts call their number.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_LIMITED_ROPE = ("longrope", "dynamic")


class ArchitectureError(PocketspecError, RuntimeError):
    """A kind of model that cannot be exported; the message names the model type and the reason."""


def shape_of(config: Any, positions: int | None = None) -> ModelShape:
    """Sizes of the graph of ``config``, with at most ``positions`` positions; ArchitectureError if it is no decoder.

    A rotary embedding that changes with the length of the text (longrope, dynamic) limits positions to the length at
    which it does not change yet.
    """
    name = config.model_type
    try:
        heads, hidden = read_size(config, "heads"), read_size(config, "hidden_size")
        longest = _longest(config)
        layers, vocab = read_size(config, "layers"), read_size(config, "vocab_size")
    except AttributeError as error:
        what = f"no {error.name}" if error.name else str(error)
        raise ArchitectureError(
            f"{name}: its config has {what}; only decoders of text whose positions are rotary are supported"
        ) from None
    except TypeError as error:
        raise ArchitectureError(f"{name}: its config is not a text decoder's ({error})") from None
    if positions is not None and not 0 < positions <= longest:
        raise ArchitectureError(f"{name}: {positions} positions asked, allowed are 1 to {longest}")
    return ModelShape(
        layers=layers,
        hidden_size=hidden,
        mlp_size=_mlp_size(config) or 4 * hidden,
        heads=heads,
        kv_heads=find_size(config, "kv_heads") or heads,
        head_size=find_size(config, "head_size") or hidden // heads,
        vocab_size=vocab,
        positions=positions or longest,
        **_states(config),
    )


def _mlp_size(config: Any) -> int | None:
    """The width of the MLP; LFM2's config has one that its code adjusts."""
    size = find_size(config, "mlp_size")
    if size is None or not getattr(config, "block_auto_adjust_ff_dim", False):
        return size
    multiple = config.block_multiple_of
    return -(-int(config.block_ffn_dim_multiplier * int(2 * size / 3)) // multiple) * multiple


def _states(config: Any) -> dict[str, Any]:
    """The fields of a shape that say which layers have states instead of a KV cache; none if all attend."""
    try:
        states = layer_states(config)
    except ValueError as error:
        raise ArchitectureError(f"{config.model_type}: {error}") from None
    if states is None:
        return {}
    return {
        "attention_layers": len(states.attending),
        "convolutions": states.convolutions,
        "recurrences": states.recurrences,
    }


def refuse(config: Any, shape: ModelShape) -> None:
    """ArchitectureError for a model that its configuration alone shows to be impossible."""
    name = config.model_type
    if getattr(config, "is_encoder_decoder", False) or config.get_text_config() is not config:
        raise ArchitectureError(f"{name}: not a decoder of text alone; export its text model")
    if any((getattr(config, attribute, None) or 0) > 1 for attribute in _EXPERTS):
        raise ArchitectureError(f"{name}: mixtures of experts are not supported")
    if shape.head_size % 8:
        raise ArchitectureError(f"{name}: head size {shape.head_size} is not a multiple of 8")
    if shape.heads % shape.kv_heads:
        raise ArchitectureError(f"{name}: {shape.heads} heads cannot share {shape.kv_heads} key-value heads")


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
