"""Compares the written graph with the reference model on real text, and refuses a graph that is wrong.

Two questions are kept apart. *How good is the export?* The graph as it will run is compared with the reference model in
fp32: differences, argmax agreement and perplexities are reported, and never fail. *Is it right?* The graph with
products computed in fp32 is compared with the reference model *with the written weights*. The loss of quantization
cancels out, so both must agree to fp32 precision; and the written weights must be near those of the checkpoint. A graph
that is not right is not exported.

Both sides run piece by piece, so a check needs no more memory than the export did.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from transformers import PretrainedConfig

from export.graph.recipe import LoweredGraph, MatrixRecipe, PlainRecipe
from export.manifest import LogitCheck, ModelShape, PocketspecError
from export.perplexity import perplexity, surprises
from export.sources.streamed_model import reference_logits
from export.sources.tensor_source import FloatArray, TensorSource, height_of
from export.validation.check_text import PASSAGE, PASSAGE_NAME
from export.validation.dequantized import WrittenWeights
from export.validation.limits import LEAN_TOKENS, MIN_TOKENS, PIECE_BYTES, count_tokens
from export.validation.partitioned_session import Inputs, PiecedGraph

# The largest allowed logit difference, as a share of the largest logit. Right exports stay below 1e-4; an epsilon of
# 1e-5 instead of 1e-6, or two swapped heads, lie above 1e-2.
TOLERANCE = 1e-3
# The largest allowed relative error of written tensors. Plain int4 rounding has 0.1 to 0.15 on real weights.
TENSOR_TOLERANCE = {"int4": 0.4, "int8": 0.05, "fp16": 1e-2, "fp32": 1e-6}
SAMPLED_ROWS = 32


class CheckError(PocketspecError, RuntimeError):
    """An exported graph that does not compute what its model computes."""


@dataclass(frozen=True)
class Passage:
    """The tokens of a check, and the name of their text."""

    name: str
    tokens: tuple[int, ...]


def read_passage(
    folder: Path | None,
    shape: ModelShape,
    text_file: Path | None = None,
    bundled: tuple[str, str] = (PASSAGE_NAME, PASSAGE),
    known: Sequence[int] | None = None,
) -> Passage:
    """The passage for a model of this shape: of ``text_file``, else of a ``bundled`` text (name, text).

    Without a tokenizer in ``folder`` its tokens are random ones of those that have logits: ``known``, or all.
    """
    if folder is None or not (folder / "tokenizer.json").is_file():
        tokens = np.random.default_rng(0).choice(known or shape.vocab_size, LEAN_TOKENS)
        return Passage("random tokens", tuple(tokens.tolist()))
    name, text = bundled
    if text_file is not None:
        try:
            name, text = text_file.name, text_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckError(f"cannot read the check text {text_file}: {error}; give a UTF-8 text file") from None
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    if len(ids) < MIN_TOKENS:
        raise CheckError(f"the check text {name} has {len(ids)} tokens, at least {MIN_TOKENS} are needed")
    known = [token for token in ids if token < shape.vocab_size]
    return Passage(name, tuple(known[: count_tokens(shape, len(known))]))


def check_level(
    graph: Path,
    lowered: LoweredGraph,
    config: PretrainedConfig,
    source: TensorSource,
    passage: Passage,
    known: Sequence[int] | None = None,
) -> LogitCheck:
    """Compares the graph written at ``graph`` with the model of ``config`` and ``source``.

    ``known`` are the tokens that logits are of, if the head was cut. CheckError if the graph does not compute the
    model; the loss of quantization is only measured.
    """
    written = WrittenWeights(graph, lowered.recipes, source)
    check_weights(graph, lowered, source, written)
    tokens = passage.tokens
    _check_structure(graph, config, written, tokens[:LEAN_TOKENS])
    exported = graph_logits(PiecedGraph(graph, PIECE_BYTES), tokens)
    return compare(passage.name, tokens, exported, reference_logits(config, source, tokens), known)


def graph_logits(graph: PiecedGraph, tokens: Sequence[int]) -> FloatArray:
    """Float32 logits ``[tokens, vocab]``, in forwards like those of decoding: a prompt, several tokens, one token."""
    bounds = [0, len(tokens) * 2 // 3, len(tokens) - 1, len(tokens)]
    steps, carried = make_steps(graph, tokens, bounds)
    return np.concatenate([values["logits"][0] for values in graph.run(steps, carried, ["logits"])])


def make_steps(graph: PiecedGraph, tokens: Sequence[int], bounds: Sequence[int]) -> tuple[list[Inputs], dict[str, str]]:
    """The inputs of each step over ``tokens``; and by cache input, the output of the step before that it continues.

    24 tokens with bounds 0, 16, 23, 24 make steps of 16, 7 and 1 rows, over one KV cache with a capacity of 24. All
    updates of recurrent states are repeated in the next step, so that these are checked as well.
    """
    steps: list[Inputs] = []
    for first, last in itertools.pairwise(bounds):
        step = {
            "input_ids": np.array([tokens[first:last]], np.int64),
            "attention_mask": np.ones((1, last), np.int64),
            "position_ids": np.arange(first, last, dtype=np.int64)[None],
        }
        if "replay" in graph.inputs:
            step["replay"] = np.array([len(steps[-1]["input_ids"][0]) if steps else 0] * 2, np.int64)
        steps.append(step)
    caches = [name for name in graph.inputs if name.startswith("past_")]
    for name in caches:
        sizes = [dim.dim_value for dim in graph.inputs[name].type.tensor_type.shape.dim]
        steps[0] = {**steps[0], name: np.zeros([size or len(tokens) for size in sizes], np.float32)}
    return steps, {name: _present(name) for name in caches}


def _present(past: str) -> str:
    """The output that a cache's input continues in the next step."""
    return past.replace("past_key_values", "present").replace("past_", "present_")


def compare(
    text: str,
    tokens: Sequence[int],
    exported: FloatArray,
    reference: FloatArray,
    known: Sequence[int] | None = None,
) -> LogitCheck:
    """Compares two sets of logits ``[tokens, vocab]`` over the same tokens.

    Perplexities are over those of them that have logits, if only the ``known`` ones do.
    """
    if known is not None and not set(known) & set(tokens[1:]):
        raise CheckError(f"{text} has no token of the draft vocabulary; give a larger --draft-vocab or a --check-text")
    total, largest = 0.0, 0.0
    for left, right in zip(exported, reference, strict=True):
        difference = np.abs(left - right)
        total, largest = total + float(difference.mean()), max(largest, float(difference.max()))
    agreement = float(np.mean(exported.argmax(-1) == reference.argmax(-1)))
    return LogitCheck(
        text=text,
        tokens=len(tokens),
        max_difference=largest,
        mean_difference=total / len(tokens),
        argmax_agreement=agreement,
        reference_perplexity=perplexity(surprises(reference, tokens[1:], known)),
        perplexity=perplexity(surprises(exported, tokens[1:], known)),
    )


def _check_structure(graph: Path, config: PretrainedConfig, written: TensorSource, tokens: Sequence[int]) -> None:
    exported = graph_logits(PiecedGraph(graph, PIECE_BYTES, exact=True), tokens)
    reference = reference_logits(config, written, tokens)
    difference = float(np.abs(exported - reference).max() / max(np.abs(reference).max(), 1e-6))
    if not difference <= TOLERANCE:
        row = int(np.abs(exported - reference).max(-1).argmax())
        raise CheckError(
            f"the exported {config.model_type} graph is wrong: its logits are off by {difference:.2g} of the largest"
            f" (row {row} of {len(tokens)}; allowed {TOLERANCE:.0e}); this is a defect of the export, nothing was kept"
        )


def check_weights(graph: Path, lowered: LoweredGraph, source: TensorSource, written: TensorSource) -> None:
    """CheckError if sampled rows of written tensors differ from the checkpoint's by more than rounding."""
    rng = np.random.default_rng(0)
    for recipe in lowered.recipes:
        if not isinstance(recipe, MatrixRecipe | PlainRecipe):
            continue
        kind, offset = (f"int{recipe.bits}", 0.0) if isinstance(recipe, MatrixRecipe) else (recipe.dtype, recipe.offset)
        for name in recipe.sources:
            shape = source.shape(name)
            height, sampled = height_of(shape), max(1, SAMPLED_ROWS // math.prod(shape[1:-1]))
            first = int(rng.integers(0, max(1, height - sampled)))
            last = min(first + sampled, height)
            right = source.read(name, first, last)
            error = float(np.linalg.norm(written.read(name, first, last) - right))
            # A tensor stored with an offset has rounding errors of the size of the offset.
            size = float(np.linalg.norm(right)) + abs(offset) * right.size**0.5
            if not error <= TENSOR_TOLERANCE[kind] * size:
                raise CheckError(
                    f"{name} was written to {graph.name} with a relative error of {error / max(size, 1e-30):.2g},"
                    f" at most {TENSOR_TOLERANCE[kind]} is rounding; this is a defect of the export, nothing was kept"
                )
