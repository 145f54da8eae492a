"""The tensors of a prediction head: its own, and those that it shares with its target."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch

from export.heads.head import Head, HeadError
from export.sources.checkpoint import Checkpoint
from export.sources.checkpoint_mapping import load_tensors
from export.sources.opened import ModelOrigin, describe_model, open_checkpoint
from export.sources.random_weights import RandomWeights
from export.sources.tensor_source import FloatArray, TensorSource

# Parameters of a head under the names that the target has for them, where they differ.
_OF_TARGET = {"target_norm.weight": "model.norm.weight"}
_SHARED = ("model.embed_tokens.weight", "lm_head.weight", *_OF_TARGET)


class HeadTensors:
    """A ``TensorSource`` for the module of ``head``: of ``checkpoint``, and of the target's tensors what they share.

    HeadError if a tensor is missing, or of another size.
    """

    def __init__(self, head: Head, checkpoint: Checkpoint, target: TensorSource) -> None:
        self._checkpoint, self._target = checkpoint, target
        found = {head.own_name(tensor): tensor for tensor in checkpoint.names()}
        shapes = parameter_shapes(head)
        self._own = {name: found[name] for name in shapes if name in found}
        self._shared = {name: _OF_TARGET.get(name, name) for name in shapes if name in _SHARED and name not in found}
        missing = [name for name in shapes if name not in self._own and name not in self._shared]
        if missing:
            count = f"lacks {len(missing)} of its {len(missing) + len(self._own)} tensors, {missing[0]!r} first"
            what = count if self._own else "is missing, though its configuration may promise it"
            raise HeadError(
                f"the prediction head {head.architecture} in {checkpoint.folder} {what}; name another drafter"
            )
        for name, expected in shapes.items():
            if self.shape(name) != expected:
                raise HeadError(
                    f"wrong shape: {self._own.get(name, name)!r} {list(self.shape(name))} in {checkpoint.folder}, the"
                    f" prediction head of its configuration expects {list(expected)}; it is not of this target"
                )

    def names(self) -> Collection[str]:
        """Every parameter of the module, shared ones too; a tied head is the embedding."""
        return {**self._own, **self._shared}.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """See ``TensorSource``."""
        source, known = self._where(name)
        return source.shape(known)

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        """See ``TensorSource``."""
        source, known = self._where(name)
        return source.read(known, first, last)

    def _where(self, name: str) -> tuple[TensorSource, str]:
        if name in self._own:
            return self._checkpoint, self._own[name]
        return self._target, self._shared[name]


def open_head(head: Head, origin: ModelOrigin, target: ModelOrigin) -> tuple[Head, TensorSource]:
    """The head and its tensors; both as the checkpoint really has them, the target's head tied or not.

    HeadError and the errors of ``load_tensors``, for the head's checkpoint ``origin`` or the one of its target.
    """
    if origin.random_weights:
        return head, RandomWeights(head.config, make=lambda: head.build("eager"))
    config = describe_model(target).config
    checkpoint = open_checkpoint(target, config)
    config, tensors = load_tensors(config, checkpoint)
    head = replace(head, config=copy.deepcopy(head.config))
    head.config.tie_word_embeddings = config.tie_word_embeddings
    return head, HeadTensors(head, checkpoint, tensors)


def parameter_shapes(head: Head) -> Mapping[str, tuple[int, ...]]:
    """Name and shape of every parameter of the module; a tied head once, as the embedding."""
    with torch.device("meta"):
        module: Any = head.build("eager")
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
