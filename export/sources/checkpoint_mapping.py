"""Which tensor of a checkpoint every parameter of the model gets, exactly as transformers would assign them.

transformers' own renamings give the names: they add and remove prefixes and know older names. Head and embedding are
tied as transformers ties them: not if the checkpoint stores two that differ, whatever its configuration says; and under
either name if it stores one. The result is compared with that of ``from_pretrained`` itself, run on tensors that repeat
a single number each. So no tensor that transformers uses is left out, and none is used that it does not use. Of models
that also see or hear it is the text part alone (``text_part``).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from export.manifest import PocketspecError
from export.sources.checkpoint import Checkpoint
from export.sources.empty_model import empty_model
from export.sources.expert_tensors import stack_experts
from export.sources.tensor_source import FloatArray
from export.sources.text_part import own_name
from export.untrusted import first_line

_TILE_BYTES = 16 << 20  # of float32: two tensors are compared in tiles of this size


class LoadingError(PocketspecError, ValueError):
    """A checkpoint that does not fit its configuration, or that would be read differently from transformers."""


class LoadedTensors:
    """A ``TensorSource``: the tensors of ``checkpoint`` under the names of the parameters that get them.

    Of tied parameters only one has a name. ``unexpected`` are the tensors that no parameter gets.
    """

    def __init__(self, checkpoint: Checkpoint, origins: Mapping[str, str], unexpected: Collection[str]) -> None:
        self.checkpoint, self.origins, self.unexpected = checkpoint, dict(origins), tuple(sorted(unexpected))

    def names(self) -> Collection[str]:
        """Every parameter, tied ones once."""
        return self.origins.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter."""
        return self.checkpoint.shape(self.origins.get(name, name))

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        """Rows of a parameter, see ``TensorSource``."""
        return self.checkpoint.read(self.origins.get(name, name), first, last)


def load_tensors(config: Any, checkpoint: Checkpoint) -> tuple[Any, LoadedTensors]:
    """The configuration and the tensors of a checkpoint that ``config`` describes; only headers are read.

    The returned configuration says whether the head is really tied. LoadingError if parameters are missing, have
    another shape, or would be read differently from ``from_pretrained``.
    """
    _refuse_quantized(config, checkpoint)
    model = empty_model(config)
    stack_experts(model, checkpoint)
    origins, left = _assign(model, checkpoint)
    assigned = dict(origins)
    shared, separate = _tie(model, checkpoint, origins)
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False) if name not in shared]
    _check_complete(model, checkpoint, {name: origins.get(name) for name in parameters})
    if separate:
        config = copy.deepcopy(config)
        config.tie_word_embeddings = False
    origins = {name: tensor for name, tensor in origins.items() if name not in shared}
    everything = {**origins, **{name: origins[owner] for name, owner in shared.items()}}
    unexpected = _check_against_transformers(model, checkpoint, assigned, everything)
    known = model.state_dict().keys()
    return config, LoadedTensors(checkpoint, origins, [t for t, name in left.items() if name in known | unexpected])


def _refuse_quantized(config: Any, checkpoint: Checkpoint) -> None:
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    method, types = getattr(method, "value", method) or "a quantization", checkpoint.dtypes
    if types <= checkpoint.READABLE:
        raise LoadingError(
            f"{checkpoint.config_path} says {method}, the weights are {', '.join(sorted(types))}: remove"
            " quantization_config from it if they were merged or saved without quantization, and export again"
        )
    raise LoadingError(
        f"the checkpoint in {checkpoint.folder} is quantized already ({method}, weights in"
        f" {', '.join(sorted(types))}); start from the unquantized one"
    )


def _assign(model: Any, checkpoint: Checkpoint) -> tuple[dict[str, str], dict[str, str]]:
    """The tensor of every parameter and persistent buffer that has one, and the names of the other tensors."""
    conversions = get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    expected, prefix = model.state_dict(), model.base_model_prefix
    origins: dict[str, str] = {}
    left: dict[str, str] = {}
    for tensor in sorted(checkpoint.names()):
        own = own_name(tensor)
        name, pattern = rename_source_key(own, renamings, converters, prefix, expected)
        if name not in expected and own in expected:
            name, pattern = rename_source_key(own, [], [], prefix, expected)
        if pattern is not None and name in expected:
            raise LoadingError(
                f"{tensor!r} in {checkpoint.folder} is stored in a form that transformers rearranges into {name!r},"
                f" which is not supported for {model.config.model_type}"
            )
        if name in expected and name not in origins:
            origins[name] = tensor
        else:
            left[tensor] = name
    return origins, left


def _tie(model: Any, checkpoint: Checkpoint, origins: dict[str, str]) -> tuple[dict[str, str], bool]:
    """The parameters that share another's tensor, by name; and whether one that should do so is separate after all.

    A tensor that is stored under the name of the sharing parameter is moved in ``origins`` to the name of the other.
    """
    shared: dict[str, str] = {}
    separate = False
    for name, owner in model.all_tied_weights_keys.items():
        if name in origins and owner in origins:
            if not _are_equal(checkpoint, origins[name], origins[owner]):
                separate = True
                continue
        elif name in origins:
            origins[owner] = origins.pop(name)
        shared[name] = owner
    if separate and shared:
        raise LoadingError(
            f"{checkpoint.folder} stores tied parameters of which some differ and others do not; that is not supported"
        )
    return shared, separate


def _are_equal(checkpoint: Checkpoint, one: str, other: str) -> bool:
    shape = checkpoint.shape(one)
    if shape != checkpoint.shape(other):
        return False
    step = max(1, _TILE_BYTES // (4 * max(1, int(np.prod(shape[1:])))))
    spans = [(first, min(first + step, shape[0])) for first in range(0, shape[0], step)]
    return all(np.array_equal(checkpoint.read(one, *span), checkpoint.read(other, *span)) for span in spans)


def _check_complete(model: Any, checkpoint: Checkpoint, origins: Mapping[str, str | None]) -> None:
    """LoadingError unless every parameter has a tensor of its shape."""
    missing = [name for name, tensor in origins.items() if tensor is None]
    if missing:
        where = checkpoint.expected_in(missing[0])
        remedy = f"the index says it is in {where}: download the checkpoint again" if where else _remedy(model, missing)
        raise LoadingError(
            f"no tensor {missing[0]!r} in {checkpoint.folder} ({len(missing)} of {len(origins)} are missing), which"
            f" transformers would fill with random values; {remedy}"
        )
    for name, tensor in origins.items():
        expected = tuple(model.get_parameter(name).shape)
        if tensor is not None and checkpoint.shape(tensor) != expected:
            raise LoadingError(
                f"wrong shape: tensor {tensor!r} {list(checkpoint.shape(tensor))} in {checkpoint.folder}, the model of"
                f" its configuration expects {list(expected)}; config.json and weights are not of one model"
            )


def _remedy(model: Any, missing: Collection[str]) -> str:
    head = model.get_output_embeddings()
    if len(missing) == 1 and head is not None and model.get_parameter(next(iter(missing))) is head.weight:
        return "set tie_word_embeddings to true in config.json if its head is its embedding"
    return f"is this the right checkpoint, of a {model.config.model_type} model?"


def _check_against_transformers(
    model: Any, checkpoint: Checkpoint, assigned: Mapping[str, str], origins: Mapping[str, str]
) -> set[str]:
    """LoadingError unless every parameter gets from ``origins`` the tensor that ``from_pretrained`` gives it.

    Returns the names that transformers reports as unexpected; rotary frequencies, which old files have, are not among
    them. For ``from_pretrained`` each tensor of ``assigned`` is replaced by a number (equal tensors have the same one)
    that is repeated over its shape without memory. Missing tensors would be allocated, so ``_check_complete`` comes
    first.
    """
    numbers = {tensor: float(index) for index, tensor in enumerate(checkpoint.names())}
    for name, owner in model.all_tied_weights_keys.items():
        one, other = assigned.get(name), assigned.get(owner)
        if one is not None and other is not None and _are_equal(checkpoint, one, other):
            numbers[one] = numbers[other]
    tensors = {
        own_name(name): torch.full((), number).expand(checkpoint.shape(name)) for name, number in numbers.items()
    }
    try:
        with _quiet():
            loaded, info = type(model).from_pretrained(
                None, config=model.config, state_dict=tensors, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:
        raise LoadingError(f"transformers cannot load {checkpoint.folder} ({first_line(error)})") from error
    stored = {name: buffer for name, buffer in loaded.named_buffers() if name in origins}
    for name, parameter in {**dict(loaded.named_parameters(remove_duplicate=False)), **stored}.items():
        if name in info["missing_keys"] or parameter[(0,) * parameter.ndim].item() != numbers[origins[name]]:
            raise LoadingError(
                f"transformers does not give {name!r} the tensor {origins[name]!r} of {checkpoint.folder}, as we would;"
                " this is a defect of the export, nothing was kept"
            )
    return set(info["unexpected_keys"])


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without transformers' progress bars and load report; our own errors and notes replace them."""
    settings = transformers.utils.logging
    shown, disabled = settings.is_progress_bar_enabled(), logging.root.manager.disable
    settings.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        if shown:
            settings.enable_progress_bar()
