"""The text of one answer: where it ends, and its chunks."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence

from runtime.decoding.draft import Step
from runtime.decoding.stats import GenerationStats
from runtime.decoding.stop import StopRule, Stops
from runtime.decoding.text_chunks import TextChunk, text_chunks
from runtime.text.tokenizer import Tokenizer


class AnswerText:
    """The text of tokens that follow ``before``. It ends as ``rule`` says: at a token of ``eos``, a stop string of
    ``stop``, or after ``max_new_tokens``; the special tokens in ``visible`` are part of it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        before: Sequence[int],
        eos: Collection[int],
        stop: str | Sequence[str] | None,
        max_new_tokens: int | None,
        visible: Sequence[str],
    ) -> None:
        self._before, self._stops = before, Stops(tokenizer, stop, visible)
        strings = self._stops.strings
        stream = self._stops.stream(before) if strings else None
        self.rule = StopRule(eos=eos, strings=strings, max_new_tokens=max_new_tokens, stream=stream)

    def chunks(
        self, steps: Generator[Step, None, None], prompt_tokens: int, cached_tokens: int
    ) -> Generator[TextChunk, None, None]:
        """The text of ``steps``, which continue ``prompt_tokens`` tokens; rows of ``cached_tokens`` were held."""
        stats = GenerationStats(prompt_tokens, cached_tokens)
        return text_chunks(steps, stats, self._stops.stream(self._before), self._stops.text())
