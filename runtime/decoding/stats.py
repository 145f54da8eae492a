"""Statistics of an answer, computed from its steps: tokens, acceptance, seconds by part, memory.

They are updated with every step, ``stats = stats.after(step, seconds)``, so every chunk of text has the statistics so
far, and nothing is counted anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from memory.meter import Memory
from runtime.decoding.draft import Step

_MIB = 2**20


@dataclass(frozen=True)
class GenerationStats:
    """One answer, so far or complete.

    ``prompt_tokens`` were given, ``cached_tokens`` of them were still in the KV cache. ``sources`` counts the answer's
    tokens by who proposed them, "target" for those that were not drafted. Times are in seconds: ``draft_seconds`` and
    ``target_seconds`` within the steps, ``step_seconds`` of the steps as a whole, ``first_token_seconds`` from the call
    to the end of the first step, ``seconds`` from the call to now. ``finish`` is "eos", "stop", "length", "context", or
    None.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    sources: Mapping[str, int] = field(default_factory=dict)
    draft_seconds: float = 0.0
    target_seconds: float = 0.0
    step_seconds: float = 0.0
    first_token_seconds: float = 0.0
    seconds: float = 0.0
    finish: str | None = None
    memory: Memory | None = None

    def after(self, step: Step, seconds: float) -> GenerationStats:
        """These statistics with one more step, which ended ``seconds`` after the call."""
        sources = dict(self.sources)
        for source in step.sources:
            sources[source] = sources.get(source, 0) + 1
        return replace(
            self,
            tokens=self.tokens + len(step.tokens),
            steps=self.steps + 1,
            drafted=self.drafted + step.num_drafted,
            accepted=self.accepted + step.num_accepted,
            sources=sources,
            draft_seconds=self.draft_seconds + step.draft_seconds,
            target_seconds=self.target_seconds + step.target_seconds,
            step_seconds=self.step_seconds + step.seconds,
            first_token_seconds=self.first_token_seconds if self.steps else seconds,
            seconds=seconds,
            finish=step.finish,
        )

    @property
    def tokens_per_step(self) -> float:
        """Tokens of the answer per forward of the target; 1 is plain decoding."""
        return self.tokens / self.steps if self.steps else 0.0

    @property
    def acceptance_rate(self) -> float:
        """The share of drafted tokens that were accepted."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def other_seconds(self) -> float:
        """Time within the steps beside drafting and the target's forward: acceptance, rollback, bookkeeping."""
        return self.step_seconds - self.draft_seconds - self.target_seconds

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens per second of the steps alone, without the prompt."""
        return self.tokens / self.step_seconds if self.step_seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second from the call to now, the prompt included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def line(self) -> str:
        """One line for users."""
        parts = [
            f"{self.tokens} tokens in {self.seconds:.2f} s",
            f"{self.decode_tokens_per_second:.1f} tokens/s decoding, {self.tokens_per_second:.1f} in all",
            f"first token after {self.first_token_seconds:.2f} s",
            f"{self.tokens_per_step:.2f} tokens per step",
        ]
        if self.drafted:
            parts.append(f"accepted {self.accepted} of {self.drafted} ({self.acceptance_rate:.0%})")
        if self.memory:
            anonymous, file = self.memory.anonymous_bytes / _MIB, self.memory.file_bytes / _MIB
            parts.append(f"{anonymous:.0f} MiB memory, {file:.0f} MiB mapped files")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """All fields and the figures derived from them, as JSON data."""
        derived = ("tokens_per_step", "acceptance_rate", "other_seconds", "decode_tokens_per_second")
        return {**asdict(self), **{name: getattr(self, name) for name in (*derived, "tokens_per_second")}}
