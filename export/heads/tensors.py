"""The tensors of a prediction head: its own, and those that it shares with its target."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.heads.enlarged import EnlargedTensors
from export.heads.head import OUTPUT, Head, HeadError, parameter_shapes
from export.sources.checkpoint import Checkpoint
from export.sources.checkpoint_mapping import load_tensors
from export.sources.cut_head import CutHead
from export.sources.opened import ModelOrigin, describe_model, open_checkpoint
from export.sources.parallel_drafts import PROJECTION_FILE
from export.sources.random_weights import RandomWeights
from export.sources.tensor_source import FloatArray, TensorSource

# Parameters of a head under the names that the target has for them, where they differ.
_OF_TARGET = {"target_norm.weight": "model.norm.weight"}
_MAP = "d2t"
_EMBEDDING = "model.embed_tokens.weight"
_SHARED = (_EMBEDDING, OUTPUT, *_OF_TARGET)


class HeadTensors:
    """A ``TensorSource`` for the module of ``head``: of ``checkpoint``, and of the target's tensors what they share.

    HeadError if a tensor is missing, or of another size.
    """

    def __init__(self, head: Head, checkpoint: Checkpoint, target: TensorSource) -> None:
        self._checkpoint, self._target = checkpoint, target
        self._own = own_tensors(head, checkpoint)
        shapes = parameter_shapes(head)
        self._shared = {name: _of_target(name, target) for name in shapes if name not in self._own}
        for name, known in self._shared.items():
            _check_shape(known, target.shape(known), shapes[name], checkpoint)

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


def own_tensors(head: Head, checkpoint: Checkpoint) -> dict[str, str]:
    """The tensor of every parameter that ``head`` does not share with its target.

    HeadError if one is missing, or of another size.
    """
    found = {head.own_name(tensor): tensor for tensor in checkpoint.names()}
    shapes = parameter_shapes(head)
    own = {name: found[name] for name in shapes if name in found}
    shared = _OF_TARGET if head.own_tokens else _SHARED
    missing = [name for name in shapes if name not in own and name not in shared]
    if missing:
        count = f"lacks {len(missing)} of its {len(missing) + len(own)} tensors, {missing[0]!r} first"
        what = count if own else "is missing, though its configuration may promise it"
        raise HeadError(f"the prediction head {head.architecture} in {checkpoint.folder} {what}; name another drafter")
    for name, tensor in own.items():
        _check_shape(tensor, checkpoint.shape(tensor), shapes[name], checkpoint)
    return own


def _check_shape(tensor: str, found: tuple[int, ...], expected: tuple[int, ...], checkpoint: Checkpoint) -> None:
    if found != expected:
        raise HeadError(
            f"wrong shape: {tensor!r} {list(found)} in {checkpoint.folder}, the prediction head of its configuration"
            f" expects {list(expected)}; it is not of this target"
        )


@dataclass(frozen=True)
class OpenedHead:
    """A head and its tensors, both as the checkpoint really has them.

    Its logits are of ``tokens``, ascending, as the checkpoint or whoever opened it says; None: of all.
    """

    head: Head
    source: TensorSource
    tokens: tuple[int, ...] | None


def open_head(head: Head, origin: ModelOrigin, target: ModelOrigin, wanted: tuple[int, ...] | None) -> OpenedHead:
    """The head of the checkpoint ``origin``; of the output matrix the rows ``wanted`` alone, if these are given.

    HeadError and the errors of ``load_tensors``, for that checkpoint or the one of its target.
    """
    cut = head if wanted is None else replace(head, tokens=len(wanted), config=_untied(head.config))
    if origin.random_weights:
        known = wanted or (None if cut.tokens in (None, head.config.vocab_size) else tuple(range(cut.tokens or 0)))
        return OpenedHead(cut, RandomWeights(cut.config, make=lambda: cut.build("eager")), known)
    config = describe_model(replace(target, enlarge_like=None)).config
    config, tensors = load_tensors(config, open_checkpoint(target, config))
    checkpoint = open_checkpoint(origin, head.config, (PROJECTION_FILE,) if head.own_tokens else ())
    if head.fit is not None:
        head = head.fit(checkpoint.names())
        cut = replace(head, tokens=cut.tokens)
    elif head.tokens is None and not head.own_tokens:
        head = replace(head, config=copy.deepcopy(head.config))
        head.config.tie_word_embeddings = config.tie_word_embeddings
    stored = head.small or head
    source: TensorSource = HeadTensors(stored, checkpoint, tensors)
    own = mapped_tokens(stored, checkpoint)
    if head.small is not None:
        source = EnlargedTensors(head, source)
    if wanted is None:
        return OpenedHead(head, source, own)
    if own is not None:
        raise HeadError(f"the head in {checkpoint.folder} has a draft vocabulary of its own; drop --draft-vocab")
    # Of a tied head the embedding's rows are the output's.
    origins = {name: name if name in source.names() else _EMBEDDING for name in head.outputs}
    return OpenedHead(cut, CutHead(source, origins, wanted), wanted)


def _of_target(name: str, target: TensorSource) -> str:
    """The target's name for a parameter that a head shares; a tied output is the embedding."""
    name = _OF_TARGET.get(name, name)
    return _EMBEDDING if name == OUTPUT and name not in target.names() else name


def _untied(config: Any) -> Any:
    config = copy.deepcopy(config)
    config.tie_word_embeddings = False
    return config


def mapped_tokens(head: Head, checkpoint: Checkpoint) -> tuple[int, ...] | None:
    """The tokens that the head's logits are of, ascending; None: all. HeadError for what is no such map.

    ``d2t`` of a checkpoint has for every column how far its token is from the column's number.
    """
    size = head.config.vocab_size
    if head.tokens is None or head.tokens == size:
        return None
    if _MAP not in checkpoint.names():
        raise HeadError(
            f"the head in {checkpoint.folder} has logits of {head.tokens} of {size} tokens, and no tensor {_MAP!r} that"
            " says of which; use a complete checkpoint"
        )
    offsets = checkpoint.read_integers(_MAP)
    tokens = offsets + np.arange(len(offsets))
    if offsets.shape != (head.tokens,) or tokens.min() < 0 or tokens.max() >= size or (np.diff(tokens) <= 0).any():
        raise HeadError(
            f"{_MAP!r} in {checkpoint.folder} maps {list(offsets.shape)} columns to tokens from {tokens.min()} to"
            f" {tokens.max()}; {head.tokens} columns must have tokens below {size}, each another one, ascending"
        )
    return tuple(tokens.tolist())
