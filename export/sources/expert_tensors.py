"""Experts of a checkpoint as transformers' models have them: one tensor for all experts of a layer.

Checkpoints store the matrices of every expert by themselves. transformers' conversions say which of them it stacks, in
which order, and what the result is called; those that do anything else are not followed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from export.sources.checkpoint import Checkpoint, CheckpointError
from export.sources.text_part import own_name


def stack_experts(model: Any, checkpoint: Checkpoint) -> None:
    """Makes the tensors of experts in ``checkpoint`` those of ``model``; only headers are read.

    CheckpointError if one is missing, or if there are more than the model has.
    """
    conversions = get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    stacking = [entry for entry in conversions if isinstance(entry, WeightConverter) and _only_stacks(entry)]
    patterns = {pattern: converter for converter in stacking for pattern in converter.source_patterns}
    expected = model.state_dict()
    found: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for tensor in checkpoint.names():
        name, pattern = rename_source_key(own_name(tensor), renamings, stacking, model.base_model_prefix, expected)
        if pattern in patterns and name in expected:
            found[name][pattern][_number(pattern, own_name(tensor))] = tensor
    for name, by_pattern in found.items():
        converter = patterns[next(iter(by_pattern))]
        count = expected[name].shape[0]
        prefix = name.removesuffix(converter.target_patterns[0])
        parts = [
            _in_order(checkpoint.folder, by_pattern[pattern], prefix + pattern, count)
            for pattern in converter.source_patterns
        ]
        checkpoint.stack(name, parts)


def _only_stacks(converter: Any) -> bool:
    """Whether a conversion stacks matrices of experts and puts those of several kinds below one another."""
    steps = [(type(operation), getattr(operation, "dim", None)) for operation in converter.operations]
    return steps in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)])


def _number(pattern: str, tensor: str) -> int:
    """The number of the expert of ``tensor``, which is at the place of ``*``."""
    match = re.search(re.escape(pattern).replace(r"\*", r"(\d+)"), tensor)
    assert match is not None, f"{tensor} does not have the form {pattern}"
    return int(match[1])


def _in_order(folder: Path, tensors: Mapping[int, str], name: str, count: int) -> list[str]:
    """The tensors of experts 0 to ``count`` (exclusive), whose names are ``name`` with a number for ``*``."""
    missing = sorted(set(range(count)) - set(tensors))
    if missing:
        tensor = name.replace("*", str(missing[0]))
        raise CheckpointError(
            f"no tensor {tensor!r} in {folder} ({len(missing)} of {count} experts are missing); download the checkpoint"
            " again"
        )
    if len(tensors) > count:
        raise CheckpointError(
            f"{folder} has {len(tensors)} experts like {tensors[0]!r}, its config.json says {count}: they are not of"
            " one model"
        )
    return [tensors[expert] for expert in range(count)]
