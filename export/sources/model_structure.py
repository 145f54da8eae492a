"""A model's structure without memory for its weights, from its config alone, and the refusals a config justifies."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from export.graph.lowering import UnsupportedGraphError
from export.graph.lowering.attention import IMPLEMENTATION
from export.manifest import Shape

# What configs of models with experts call their number.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_LIMITED_ROPE = ("longrope", "dynamic")


def shape_of(config: transformers.PretrainedConfig, positions: int | None = None) -> Shape:
    """Sizes of the graph that ``lower`` makes from ``config``.

    Positions are those the model was made for, at most ``positions``; a rotary embedding that changes with the length
    of the text (longrope, dynamic) is limited to the length where it does not.
    """
    name = config.model_type
    try:
        heads, hidden = int(config.num_attention_heads), int(config.hidden_size)
        longest = _longest(config)
        layers, vocab = int(config.num_hidden_layers), int(config.vocab_size)
    except AttributeError as error:
        what = f"no {error.name}" if error.name else str(error)
        raise UnsupportedGraphError(
            f"{name}: its config has {what}; only decoders of text whose positions are rotary are supported"
        ) from None
    except TypeError as error:
        raise UnsupportedGraphError(f"{name}: its config is not a text decoder's ({error})") from None
    if positions is not None and not 0 < positions <= longest:
        raise UnsupportedGraphError(f"{name}: {positions} positions asked, allowed are 1 to {longest}")
    mlp = getattr(config, "intermediate_size", None)
    return Shape(
        layers=layers,
        hidden_size=hidden,
        mlp_size=int(mlp or 4 * hidden),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=int(getattr(config, "head_dim", None) or hidden // heads),
        vocab_size=vocab,
        positions=positions or longest,
    )


def refuse(config: transformers.PretrainedConfig, shape: Shape) -> None:
    """Raises UnsupportedGraphError for what a config alone shows to be impossible."""
    name = config.model_type
    if getattr(config, "is_encoder_decoder", False) or config.get_text_config() is not config:
        raise UnsupportedGraphError(f"{name}: not a decoder of text alone; export its text model")
    if any((getattr(config, attribute, None) or 0) > 1 for attribute in _EXPERTS):
        raise UnsupportedGraphError(f"{name}: mixtures of experts are not supported")
    if shape.head_size % 8:
        raise UnsupportedGraphError(f"{name}: head size {shape.head_size} is not a multiple of 8")
    if shape.heads % shape.kv_heads:
        raise UnsupportedGraphError(f"{name}: {shape.heads} heads cannot share {shape.kv_heads} key-value heads")


def _longest(config: transformers.PretrainedConfig) -> int:
    longest = int(config.max_position_embeddings)
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in rope.values() if all(isinstance(part, dict) for part in rope.values()) else [rope]:
        if parameters and parameters.get("rope_type") in _LIMITED_ROPE:
            original = parameters.get("original_max_position_embeddings")
            longest = min(
                longest, int(original or getattr(config, "original_max_position_embeddings", None) or longest)
            )
    return longest


def build_model(config: transformers.PretrainedConfig) -> tuple[nn.Module, FakeTensorMode]:
    """The model without memory for its parameters; buffers that no checkpoint holds have their values."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode:
            model = transformers.AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=IMPLEMENTATION, trust_remote_code=False
            )
    except Exception as error:
        if isinstance(error, KeyError) and error.args == (IMPLEMENTATION,):
            raise UnsupportedGraphError(
                "its code in transformers has kinds of attention of its own, in whose place ours cannot be put;"
                " it is not supported"
            ) from None
        raise UnsupportedGraphError(f"transformers cannot build it for our attention ({first_line(error)})") from error
    _fill_buffers(model)
    return model.eval(), mode


def _fill_buffers(model: Any) -> None:
    """Gives buffers that no checkpoint holds (rotary frequencies, embedding scales) the values of HF's own code."""
    persistent = set(model.state_dict())
    for path, module in model.named_modules():
        missing = [
            name for name, _ in module.named_buffers(recurse=False) if f"{path}.{name}".lstrip(".") not in persistent
        ]
        for name in missing:
            fake = getattr(module, name)
            fill = float("nan") if fake.dtype.is_floating_point else -1
            setattr(module, name, torch.full(fake.shape, fill, dtype=fake.dtype))
        if missing:
            model._init_weights(module)
        for name in missing:
            value = getattr(module, name)
            if bool((value != value).any() if value.dtype.is_floating_point else (value == -1).any()):
                raise UnsupportedGraphError(f"buffer {name} of {path} has no value that could be exported")


def first_line(error: BaseException) -> str:
    """The first cause of an error of others, with its kind, in one line without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
