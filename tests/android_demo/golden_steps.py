"""Steps of the decoding loop as JSON data, for the Kotlin engine to repeat: what was asked for, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memory.drafter_spec import DrafterSpec, parse_drafter
from runtime.arrays import FloatArray
from runtime.decoding.acceptance.greedy import GreedyVerifier
from runtime.decoding.acceptance.sample_and_match import MatchVerifier
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, Pick, Step, Verdict
from runtime.decoding.loop import decode
from runtime.decoding.protocols import Drafter, Model, Verifier
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.stop import StopRule
from runtime.drafters.confidence import uncalibrated
from runtime.drafters.factory import make_drafter
from runtime.scheduler.fixed import FixedScheduler


@dataclass(frozen=True)
class Question:
    """One answer that both engines give: drafts of one shape for every step."""

    prompt: Sequence[int]
    sampling: SamplingParams
    pick: Pick
    max_new_tokens: int
    eos: Collection[int] = ()

    def to_json(self) -> dict[str, Any]:
        """As the Kotlin test reads it."""
        return {
            "prompt": list(map(int, self.prompt)),
            "sampling": asdict(self.sampling),
            "drafter": self.pick.drafter,
            "limit": _limit_data(self.pick.limit),
            "max_new_tokens": self.max_new_tokens,
            "eos": sorted(self.eos),
        }


class GoldenDecoder:
    """Answers questions with ``target`` and the drafting ``levels``, by name; ``capacity`` is the context's."""

    drawn = False
    inner_rule: Verifier | None = None
    other_texts = None

    def __init__(self, target: Model, levels: Mapping[str, Model], capacity: int) -> None:
        self._target, self._levels, self._capacity = target, levels, capacity
        self.vocab_size = target.vocab_size

    def answer(self, question: Question) -> dict[str, Any]:
        """The question with all steps of its answer."""
        context = Context(self._capacity, question.sampling)
        context.hold(question.prompt)
        verifier = _Recorder(MatchVerifier() if question.sampling.temperature > 0 else GreedyVerifier())
        name = question.pick.drafter
        drafters = {} if name is None else {name: self.drafter(parse_drafter(name))}
        scheduler = FixedScheduler(name, question.pick.limit)
        stop = StopRule(eos=question.eos, max_new_tokens=question.max_new_tokens)
        steps = decode(self._target, context, drafters, scheduler, verifier, stop)
        return {**question.to_json(), "steps": [_step_data(step, verifier.draft) for step in steps]}

    # What follows are ``DrafterResources``. Confidence is not calibrated, as it is not on a phone.

    def model(self, level: str) -> Model:
        """See ``DrafterResources``."""
        return self._levels[level]

    def cores(self, level: str) -> tuple[int, ...]:
        """See ``DrafterResources``."""
        return ()

    def head(self, level: str) -> None:
        """See ``DrafterResources``; apps refuse bundles with such levels by their schema."""

    def stack(self, level: str) -> None:
        """See ``DrafterResources``; apps refuse bundles with such levels by their schema."""

    def logit_tokens(self, level: str) -> None:
        """See ``DrafterResources``; apps refuse bundles with such levels by their schema."""

    def parallel(self, level: str) -> None:
        """See ``DrafterResources``; apps refuse bundles with such levels by their schema."""

    def calibration(self, level: str) -> Callable[[float], float]:
        """See ``DrafterResources``."""
        return uncalibrated

    def drafter(self, spec: DrafterSpec) -> Drafter:
        """See ``DrafterResources``."""
        return make_drafter(spec, self)


class _Recorder:
    """A ``Verifier`` that keeps the draft it judged last."""

    exact = True

    def __init__(self, rule: Verifier) -> None:
        self.name, self._rule, self.draft = rule.name, rule, Draft()

    def accept(self, draft: Draft, logits: FloatArray, context: Context) -> Verdict:
        self.draft = draft
        return self._rule.accept(draft, logits, context)


def _limit_data(limit: DraftLimit) -> dict[str, Any]:
    inner = None if limit.inner is None else _limit_data(limit.inner)
    return {**asdict(limit), "inner": inner}


def _step_data(step: Step, draft: Draft) -> dict[str, Any]:
    """Parents only of trees; for a hierarchy, how much the intermediate accepted in each of its steps."""
    data: dict[str, Any] = {"draft": list(draft.tokens), "accepted": step.num_accepted, "tokens": list(step.tokens)}
    if not draft.is_chain:
        data["parents"] = list(draft.parents)
    if step.below:
        data["below"] = [below.num_accepted for below in step.below]
    if step.finish is not None:
        data["finish"] = step.finish
    return {name: _plain(value) for name, value in data.items()}


def _plain(value: Any) -> Any:
    return list(map(int, value)) if isinstance(value, list) else value
