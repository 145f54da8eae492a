"""A conversation of a model without weights: it touches the pages of libraries that any conversation does.

Models run by themselves touch fewer. Of Python's libraries, opening a tokenizer and choosing tokens touch 2 MB more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import tokenizers

from runtime.arrays import TokenArray
from runtime.decoding.acceptance.greedy import GreedyVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import DraftLimit
from runtime.decoding.loop import decode
from runtime.decoding.protocols import ModelOutput
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.suffix import SuffixDrafter
from runtime.models.io_binding import ancestors
from runtime.models.kv_cache import KVCache
from runtime.scheduler.fixed import FixedScheduler
from runtime.text.tokenizer import Tokenizer

# More entries than can be sorted at once, as in any vocabulary.
_VOCAB_SIZE = 4096
_CONTEXT, _PERIOD, _NODES = 128, 7, 7
_SETTINGS = (SamplingParams(), SamplingParams(temperature=1.0, top_k=50, top_p=0.95, seed=1))


def converse() -> None:
    """Opens a tokenizer, and answers a prompt greedily and by sampling, with trees of drafts from repetition."""
    Tokenizer(tokenizers.Tokenizer.from_str(_tokenizer_data()))
    model, drafter = _Repeating(), SuffixDrafter()
    scheduler = FixedScheduler(drafter.name, DraftLimit(_NODES, _NODES, "tree"))
    for sampling in _SETTINGS:
        context = Context(_CONTEXT, sampling)
        context.append([place % _PERIOD for place in range(_CONTEXT // 2)])
        verifier = MatchVerifier() if sampling.temperature else GreedyVerifier()
        for _ in decode(model, context, {drafter.name: drafter}, scheduler, verifier, StopRule()):
            pass


class _Repeating:
    """A ``Model`` that repeats what lies a period back."""

    takes_trees = True

    def __init__(self) -> None:
        self.vocab_size, self.max_rows = _VOCAB_SIZE, _NODES + 1
        self.logits_rows = self.max_rows
        self.cache = KVCache([(1, 8), (1, 8)], [np.float32] * 2, _CONTEXT + self.max_rows)

    def padded(self, rows: int) -> int:
        """See ``Model``."""
        return rows

    def forward(
        self, tokens: Sequence[int] | TokenArray, parents: Sequence[int] | None = None, logits_from: int = 0
    ) -> ModelOutput:
        """See ``Model``."""
        if parents is not None:
            ancestors(parents, len(tokens))
        self.prefill(tokens)
        logits = np.zeros((len(tokens), self.vocab_size), np.float32)
        logits[np.arange(len(tokens)), (np.asarray(tokens) + 1) % _PERIOD] = 9
        return ModelOutput(logits[logits_from:])

    def prefill(self, tokens: Sequence[int] | TokenArray) -> None:
        """See ``Model``."""
        self.cache.require(len(tokens))
        self.cache.append(tokens)


def _tokenizer_data() -> str:
    """A tokenizer of bytes, of the kind that most models have."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocabulary = {letter: place for place, letter in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    model = {"type": "BPE", "vocab": {**vocabulary, "he": len(vocabulary)}, "merges": ["h e"]}
    return json.dumps({"version": "1.0", "model": model, "pre_tokenizer": byte_level, "decoder": byte_level})
