"""``small``: a small model of the target's tokenizer, which drafts one token after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from export.distill.devices import tensors_for
from export.distill.family import from_layers
from export.distill.held_out import DraftHits, HeldOutText, follow
from export.distill.kinds.kind import StudentKind, Teaching
from export.distill.lessons import Lessons
from export.distill.train import Objective, Schedule, TeacherObjective
from export.estimate import count_parameters
from export.manifest import PocketspecError
from export.sources.config_names import read_size, spell_sizes

# The demo's drafter has 6.5% of its target's weights, two layers, and an MLP of twice its width.
_SHARE, _LAYERS, _MLP = 0.065, 2, 2
# Widths are multiples of 32, as int4 blocks need; heads of 32 up to where heads of 64 are several.
_STEP, _NARROW, _WIDE, _WIDE_FROM = 32, 32, 64, 512


class SmallModel(StudentKind):
    """See above."""

    name = "small"
    purpose = "a small model of the target's tokenizer"
    drafts = 7

    def check(self, teaching: Teaching) -> None:
        """See ``StudentKind``."""
        if teaching.start is not None and teaching.layers:
            raise PocketspecError("--start and --from-layers exclude each other; drop one of them")

    def student(self, teaching: Teaching) -> nn.Module:
        """See ``StudentKind``."""
        torch.manual_seed(Schedule.seed)
        if teaching.start is not None:
            return _of_one_vocabulary(teaching.open(teaching.start), teaching)
        if teaching.layers:
            return from_layers(teaching.target, teaching.layers)
        return AutoModelForCausalLM.from_config(small_config(teaching.config)).float().to(teaching.device)

    def objective(self, teaching: Teaching, lessons: Lessons) -> Objective:
        """See ``StudentKind``."""
        return TeacherObjective(lessons)

    def hits(self, student: Any, task: Any, text: HeldOutText, drafts: int) -> DraftHits:
        """See ``StudentKind``."""
        (fed,) = tensors_for(student, text.tokens[None].astype(np.int64))
        chosen = student(input_ids=fed[:, :-1], use_cache=False).logits[0].argmax(-1).cpu().numpy()
        return follow((chosen == text.tokens[1:])[text.begin - 1 :], drafts)


def small_config(target: Any) -> LlamaConfig:
    """The configuration of a Llama of the vocabulary of a target with configuration ``target``.

    It is the widest one with at most 6.5% of the target's weights.
    """
    vocabulary, most = read_size(target, "vocab_size"), _SHARE * count_parameters(target)
    widths = range(_STEP, read_size(target, "hidden_size") + 1, _STEP)
    fitting = [width for width in widths if width % _head(width) == 0 and _weights(width, vocabulary) <= most]
    width = max(fitting, default=_STEP)
    heads = width // _head(width)
    sizes = spell_sizes(
        LlamaConfig.model_type,
        layers=_LAYERS,
        hidden_size=width,
        mlp_size=_MLP * width,
        heads=heads,
        kv_heads=heads,
        head_size=_head(width),
        vocab_size=vocabulary,
        positions=read_size(target, "positions"),
    )
    ids = {name: getattr(target, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return LlamaConfig(**sizes, **ids, rms_norm_eps=1e-5, tie_word_embeddings=True)


def _head(width: int) -> int:
    return _WIDE if width >= _WIDE_FROM else _NARROW


def _weights(width: int, vocabulary: int) -> int:
    """About the weights of such a model: embedding, attention, MLP."""
    return vocabulary * width + _LAYERS * (4 + 3 * _MLP) * width**2


def _of_one_vocabulary(student: Any, teaching: Teaching) -> Any:
    own, wanted = read_size(student.config, "vocab_size"), read_size(teaching.config, "vocab_size")
    if own < wanted:
        raise PocketspecError(
            f"{teaching.start} has logits for {own} tokens and the target {wanted}; begin as a model of its tokenizer"
        )
    return student
