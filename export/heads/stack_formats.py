"""How checkpoints say that they are a stack of heads: those of Medusa and Hydra, field by field.

Both publish heads alone: a ``config.json`` that counts heads and layers, with the name of the model they were trained
on, beside the tensors of a list of modules. Medusa's configurations do not say whether heads have output matrices of
their own (version 1) or share the target's (version 2), and those of the first releases count two heads where there are
five (FasterDecoding/Medusa, ``medusa_model.py``): its tensors decide. Both build the layers of a head by multiplying a
list, so that these share their weights; a checkpoint of Medusa may have others.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from export.heads.head import Head, HeadError
from export.heads.stack import HeadStack, StackShape
from export.manifest import MOST_HEADS
from export.sources.config_names import read_size
from export.sources.head_formats import COUNTS
from export.untrusted import shown

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_MOST_LAYERS = 16
_MEDUSA = re.compile(r"^(?:medusa_head\.)?(\d+)\.(\d+)\.(?:(linear)\.)?(weight|bias)$")
_HYDRA = re.compile(r"^(?:hydra_head\.)?hydra_mlp\.(\d+)\.(\d+)\.(linear|res_connection)\.(weight|bias)$")
_HYDRA_OUTPUT = re.compile(r"^(?:hydra_head\.)?hydra_lm_head\.(\d+)\.(weight|bias)$")


@dataclass(frozen=True)
class StackConfig:
    """The ``fields`` of a configuration that has ``kind`` heads."""

    kind: str
    fields: Mapping[str, Any]

    def number(self, name: str, usual: int, most: int, least: int = 1) -> int:
        """The field ``name``; HeadError unless it is a whole number from ``least`` to ``most``."""
        value = self.fields.get(name, usual)
        if type(value) is not int or not least <= value <= most:
            raise HeadError(f"{name} {shown(value)} in a configuration of {self.kind} heads; it is {least} to {most}")
        return value


def stack_config(fields: Mapping[str, Any]) -> StackConfig | None:
    """The configuration of a stack of heads with these fields; None if it is of something else."""
    return next((StackConfig(kind, fields) for key, kind in COUNTS.items() if key in fields), None)


def head_stack(config: StackConfig, target: Any) -> Head:
    """The stack of ``config`` for a target of that configuration; HeadError where they do not fit."""
    if target.model_type not in _FAMILIES:
        raise HeadError(
            f"{config.kind} heads read the final norm's rows of {', '.join(_FAMILIES)}; {target.model_type} is not"
            " supported"
        )
    return _medusa(config, target) if config.kind == "Medusa" else _hydra(config, target)


def _medusa(config: StackConfig, target: Any) -> Head:
    heads = config.number("medusa_num_heads", 5, MOST_HEADS)
    layers = config.number("medusa_num_layers", 1, _MOST_LAYERS, 0)
    if not layers:
        raise HeadError("Medusa heads of 0 layers, which are the target's own output matrix again; name another")
    stack = StackShape(heads, layers, layers, shared=False, grounded=False)

    def fit(tensors: Collection[str]) -> Head:
        found = [match for tensor in tensors if (match := _MEDUSA.match(tensor))]
        there = {int(match[1]) for match in found}
        _refuse_halves("Medusa", there, heads)
        shared = not any(match[3] is None and int(match[2]) == layers for match in found)
        return _head("medusa", replace(stack, heads=len(there), shared=shared), target, _medusa_name(layers))

    return replace(_head("medusa", stack, target, _medusa_name(layers)), fit=fit)


def _hydra(config: StackConfig, target: Any) -> Head:
    heads, layers = config.number("hydra_num_heads", 4, MOST_HEADS), config.number("hydra_num_layers", 1, _MOST_LAYERS)
    kind, grounded = config.fields.get("hydra_head_arch", "mlp"), config.fields.get("grounded_heads", False)
    if kind != "mlp":
        raise HeadError(f"Hydra heads of the architecture {shown(kind)} are not supported, those of 'mlp' are")
    offset = config.number("hidden_state_offset", 0, read_size(target, "layers"), 0)
    distinct = min(2, layers) if grounded is True else 1
    stack = StackShape(heads, layers, distinct, False, grounded is True, biased=True, normed=offset == 0)
    head = _head("hydra", stack, target, _hydra_name(distinct), offset)

    def fit(tensors: Collection[str]) -> Head:
        _refuse_halves("Hydra", {int(match[1]) for name in tensors if (match := _HYDRA.match(name))}, heads)
        return replace(head, fit=None)

    return replace(head, fit=fit)


def _head(name: str, stack: StackShape, target: Any, own_name: Callable[[str], str | None], offset: int = 0) -> Head:
    config = copy.deepcopy(target)
    size, last = read_size(target, "hidden_size"), read_size(target, "layers")
    config.num_hidden_layers, config.tie_word_embeddings = 1, False
    if getattr(config, "layer_types", None):
        config.layer_types = ["full_attention"]
    return Head(
        name,
        config,
        (last - offset,),
        size,
        lambda decoder: HeadStack(decoder, stack),
        own_name,
        outputs=stack.outputs,
        own_hidden=stack.own_hidden(size),
        has_layers=False,
        stack=stack.heads,
        together=not stack.grounded,
    )


def _refuse_halves(kind: str, there: set[int], promised: int) -> None:
    missing = sorted(set(range(max(promised, len(there)))) - there)
    if missing:
        raise HeadError(
            f"{len(there)} {kind} heads are there of the {max(promised, len(there))} that there should be, and number"
            f" {missing[0]} is missing; use a complete checkpoint"
        )


def _medusa_name(layers: int) -> Callable[[str], str | None]:
    """``0.0.linear.weight`` is that of the first layer; behind one layer ``0.1.weight`` is the output matrix."""

    def name(tensor: str) -> str | None:
        found = _MEDUSA.match(tensor)
        if found is None:
            return None
        head, place, linear, kind = found.groups()
        if linear is None:
            return f"outputs.{head}.{kind}" if int(place) == layers else None
        return f"layers.{head}.{place}.linear.{kind}"

    return name


def _hydra_name(distinct: int) -> Callable[[str], str | None]:
    """``hydra_mlp.0.3.linear.weight`` is that of the last layer which is not one of those before it."""

    def name(tensor: str) -> str | None:
        if (output := _HYDRA_OUTPUT.match(tensor)) is not None:
            return f"outputs.{output[1]}.{output[2]}"
        found = _HYDRA.match(tensor)
        if found is None:
            return None
        return f"layers.{found[1]}.{min(int(found[2]), distinct - 1)}.{found[3]}.{found[4]}"

    return name
