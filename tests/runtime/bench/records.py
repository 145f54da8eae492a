"""Steps and answers as a benchmark records them, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.bench.measure import AnswerRecord
from runtime.decoding.draft import Pick, Step, chain_limit


def make_step(accepted: int = 0, depth: int = 0, **fields: Any) -> Step:
    """A step with a chain of ``depth`` of which ``accepted`` tokens stand, and one token more."""
    drafter = fields.pop("drafter", "near" if depth else None)
    return Step(
        tokens=(7,) * (accepted + 1),
        sources=("target",) * (accepted + 1),
        num_drafted=fields.pop("drafted", depth),
        num_accepted=accepted,
        draft_seconds=0.25,
        target_seconds=0.5,
        seconds=1.0,
        pick=Pick(drafter, chain_limit(depth)) if drafter else Pick(None),
        depth=depth,
        **fields,
    )


def make_answer(
    contender: str, speed: float, prompt: int = 0, repeat: int = 0, steps: Sequence[Step] | None = None, **fields: Any
) -> AnswerRecord:
    """An answer that decodes ``speed`` tokens/s after a first token that took a second."""
    steps = tuple(steps or [make_step() for _ in range(5)])
    decoded = sum(len(step.tokens) for step in steps[1:])
    return AnswerRecord(contender, prompt, repeat, steps, 1.0, 1.0 + decoded / speed, **fields)
