"""A drafter is help, never a condition: one that gives no numbers is dropped with a line, and the text is the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory import Request
from runtime.decoding.protocols import ModelOutput
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.errors import LogitsError
from runtime.speculation.request import PLAIN, Speculation

GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, seed=7)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def opened(stacked_bundle: Path, told: list[str]) -> Iterator[Engine]:
    request = Request(threads=1, shape="tree", nodes=8, drafters=("far", "near"))
    with Engine.open(stacked_bundle, request, notify=told.append) as engine:
        yield engine


def spoil(engine: Engine, name: str, after: int = 0, value: float = np.nan) -> None:
    """From now on the model ``name`` gives ``value`` for a logit, behind its first ``after`` forwards."""
    model = engine.target if name == "target" else engine.drafters[name]
    forward, calls = model.forward, [0]

    def spoilt(*given: Any) -> ModelOutput:
        output = forward(*given)
        calls[0] += 1
        if calls[0] > after:
            output.logits[:, 5] = value
        return output

    model.forward = spoilt  # type: ignore[method-assign]


def tokens(engine: Engine, speculation: Speculation, sampling: SamplingParams = GREEDY) -> list[int]:
    settings: dict[str, Any] = {"max_new_tokens": 30, "ignore_eos": True, "raw": True}
    answer = engine.generate("once upon a time", sampling=sampling, speculation=speculation, **settings)
    return [token for chunk in answer for token in chunk.step.tokens]


BROKEN = [
    ("far", Speculation()),
    ("near", Speculation()),
    ("far", Speculation("far", 3)),
    ("near", Speculation("near", 6, "tree")),
    ("far", Speculation("suffix+far", 3)),
    ("far", Speculation("ahead:far", 3)),
    ("far", Speculation("far>near", 5)),
    ("near", Speculation("far>near", 5)),
]
SPOILT = list(product([GREEDY, SAMPLED], [0, 5], [np.nan, np.inf]))
# Every one in two ways, one as they come and one turned round: all against all are slow.
FEW = [(*case, *SPOILT[way]) for number, case in enumerate(BROKEN) for way in (number, 7 - (number + 3) % 8)]
REST = [(*case, *way) for case in BROKEN for way in SPOILT if (*case, *way) not in FEW]


@pytest.mark.parametrize(
    ("broken", "speculation", "sampling", "after", "value"),
    [*FEW, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)],
    ids=str,
)
def test_the_answer_goes_on_without_a_broken_drafter(
    opened: Engine,
    told: list[str],
    broken: str,
    speculation: Speculation,
    sampling: SamplingParams,
    after: int,
    value: float,
) -> None:
    plain = tokens(opened, PLAIN, sampling)
    spoil(opened, broken, after, value)
    assert tokens(opened, speculation, sampling) == plain
    assert tokens(opened, speculation, sampling) == plain, "the next answer has no need of it either"
    lines = [line for line in told if "the largest logit is" in line]
    if speculation.drafter != "auto":
        assert len(lines) == 1
    for line in lines:
        assert line.endswith(f"answers go on without {broken}, and their text is the same")


@pytest.mark.parametrize("acceptance", ["block", "recursive"])
def test_rules_that_ask_for_distributions_go_on_too(opened: Engine, told: list[str], acceptance: str) -> None:
    spoil(opened, "far")
    assert len(tokens(opened, Speculation("far", 3, acceptance=acceptance), SAMPLED)) == 30
    assert any("answers go on without far" in line for line in told)


def test_a_broken_level_stays_dropped_when_the_budget_changes(opened: Engine, told: list[str]) -> None:
    spoil(opened, "far")
    plain = tokens(opened, PLAIN)
    tokens(opened, Speculation("far", 3))
    opened.set_budget(opened.plan.budget_bytes - 1)
    opened.set_budget(opened.plan.budget_bytes + 1)
    assert tokens(opened, Speculation("far", 3)) == plain
    assert len([line for line in told if "the largest logit is" in line]) == 1


@pytest.mark.parametrize("speculation", [PLAIN, Speculation("far", 3), Speculation()], ids=str)
def test_a_broken_target_ends_the_answer_and_is_named(opened: Engine, speculation: Speculation) -> None:
    tokens(opened, Speculation())  # what is measured once is measured
    spoil(opened, "target")
    with pytest.raises(LogitsError, match=f"^target {opened.manifest.target.name}: the largest logit is nan"):
        tokens(opened, speculation)
