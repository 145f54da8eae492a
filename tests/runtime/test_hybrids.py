"""Models whose layers have states: the same text with every drafter, in every turn, from sessions and kept copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.manifest import read_manifest
from memory import Request
from memory.device import read_device
from memory.footprint import Footprint
from memory.plan import PlanError, check_plan
from memory.planner import make_plan
from runtime.commands.options import show_explanation
from runtime.conversation import Conversation
from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.errors import PocketspecError
from runtime.sessions.errors import OtherSessionError
from runtime.speculation.request import PLAIN, Speculation
from tests.runtime.models.hybrid_graph import write_hybrid_bundle

SAMPLED = SamplingParams(temperature=0.9, seed=7)
SPECULATIONS = [
    Speculation(),
    Speculation("near", 5),
    Speculation("suffix", 4),
    Speculation("ahead:near", 3),
    Speculation("suffix+near", 4),
]
PROMPT = "Once upon a time there was a long prompt, longer than what is read again."


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target and a drafter, both with states alone."""
    return write_hybrid_bundle(tmp_path_factory.mktemp("hybrid") / "bundle")


@pytest.fixture(scope="module")
def hybrid(bundle: Path) -> Iterator[Engine]:
    """The bundle, open; it keeps two more conversations."""
    with Engine.open(bundle, Request(threads=1, nodes=6, kept_conversations=2)) as engine:
        yield engine


def tokens_of(engine: Engine, prompt: Any = PROMPT, **settings: Any) -> list[int]:
    chunks = engine.generate(prompt, **{"max_new_tokens": 30, "ignore_eos": True, **settings})
    return [token for chunk in chunks for token in chunk.step.tokens]


@pytest.mark.parametrize("speculation", SPECULATIONS, ids=str)
@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED], ids=["greedy", "sampled"])
def test_every_drafter_gives_the_plain_answer(
    hybrid: Engine, speculation: Speculation, sampling: SamplingParams
) -> None:
    plain = tokens_of(hybrid, sampling=sampling, speculation=PLAIN)
    assert tokens_of(hybrid, sampling=sampling, speculation=speculation) == plain


def test_a_good_drafter_is_accepted(hybrid: Engine) -> None:
    *_, last = hybrid.generate(PROMPT, max_new_tokens=30, ignore_eos=True, speculation=Speculation("near", 5))
    assert last.stats.accepted > 0


def test_turns_equal_plain_turns_and_so_does_an_edited_one(hybrid: Engine) -> None:
    def talk(speculation: Speculation) -> list[list[int]]:
        settings: dict[str, Any] = {"ignore_eos": True, "max_new_tokens": 20, "speculation": speculation}
        conversation, answers = Conversation(hybrid, **settings), []
        for text in ("Hello", "And then?"):
            answers.append([token for chunk in conversation.say(text) for token in chunk.step.tokens])
        return [*answers, tokens_of(hybrid, "Something else"), tokens_of(hybrid, PROMPT[:50] + "ends otherwise")]

    assert talk(Speculation("near", 4)) == talk(PLAIN)


def test_a_session_goes_on_in_another_engine(hybrid: Engine, bundle: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"ignore_eos": True, "max_new_tokens": 20, "speculation": Speculation("near", 4)}
    whole = Conversation(hybrid, **settings)
    list(whole.say("Hello"))
    whole.save(tmp_path / "session")
    expected = [token for chunk in whole.say("Go on") for token in chunk.step.tokens]
    with Engine.open(bundle, Request(threads=1, nodes=8)) as other:
        restored = Conversation.restore(other, tmp_path / "session")
        chunks = list(restored.say("Go on"))
        assert [token for chunk in chunks for token in chunk.step.tokens] == expected
        assert chunks[-1].stats.cached_tokens > 20, "the session was read again"


def test_a_session_of_a_model_without_states_is_refused(hybrid: Engine, random_bundle: Path, tmp_path: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1)) as dense:
        talk = Conversation(dense, max_new_tokens=5)
        list(talk.say("Hello"))
        talk.save(tmp_path / "session")
    with pytest.raises(OtherSessionError, match="it is of another model"):
        Conversation.restore(hybrid, tmp_path / "session")


def test_trees_are_refused_and_not_planned(hybrid: Engine) -> None:
    assert hybrid.plan.draft.shape == "chain"
    with pytest.raises(PocketspecError, match="cannot verify trees; ask for shape chain: layers of hybrid have states"):
        tokens_of(hybrid, speculation=Speculation("near", 4, "tree"))
    with pytest.raises(PocketspecError, match=r"^no trees: layers of hybrid have states, .*; ask for shape chain$"):
        make_plan(hybrid.manifest, read_device(), Request(shape="tree"))


def test_explanations_say_why_there_are_no_trees(hybrid: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    tokens_of(hybrid, speculation=Speculation())
    show_explanation(hybrid)
    *table, last = capsys.readouterr().err.splitlines()
    assert "near-chain" in "".join(table)
    assert last == "no trees: layers of hybrid have states, which take rows one after another, so drafts are chains"


def test_a_plan_of_a_model_without_states_is_refused(random_bundle: Path, hybrid: Engine) -> None:
    plan = make_plan(read_manifest(random_bundle), read_device(), Request(threads=1))
    with pytest.raises(
        PlanError, match=r"^this plan names level 'tiny', and the bundle is 'hybrid'; make the plan again$"
    ):
        check_plan(plan, hybrid.manifest)
    target = hybrid.plan.target
    stateless = Footprint(tuple(part for part in target.footprint.parts if part.name != "states"))
    alike = replace(hybrid.plan, levels=(replace(target, footprint=stateless),))
    with pytest.raises(PlanError, match=r"^this plan counts no states of level 'hybrid', which has some; make the"):
        check_plan(alike, hybrid.manifest)
    check_plan(hybrid.plan, hybrid.manifest)


def test_states_are_in_the_plan(hybrid: Engine) -> None:
    for planned in hybrid.plan.levels:
        model = hybrid.target if planned.role == "target" else hybrid.drafters[planned.name]
        states = model.cache.states
        assert states is not None
        held = sum(array.nbytes for array in states.arrays)
        assert planned.footprint.part("states").anonymous == held * (1 + states.sizes.snapshots)
