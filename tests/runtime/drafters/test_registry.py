"""A drafter that the package has never heard of: one registration, and everything that takes a drafter knows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.manifest import DRAFT_TABLE_NAME, PocketspecError
from memory import Request
from memory.drafter_spec import parse_drafter
from runtime.__main__ import main
from runtime.bench.contenders import parse_contender
from runtime.decoding.context import Context
from runtime.decoding.draft import Draft, DraftLimit, make_chain
from runtime.decoding.stop import StopRule
from runtime.drafters import registry
from runtime.drafters.registry import register
from runtime.engine import Engine
from runtime.speculation.request import PLAIN, Speculation

NAME = "parrot"
PROMPT = [1, 2, 3, 4]


class Parrot:
    """Says the last token once more, as often as it may."""

    name = NAME

    def propose(self, context: Context, limit: DraftLimit) -> Draft:
        return make_chain([int(context.tokens[-1])] * limit.depth)


@pytest.fixture(autouse=True)
def parrot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry.registered()))
    register(NAME, lambda spec, resources: Parrot(), longest=3)


def _text(engine: Engine, drafter: str) -> tuple[list[int], set[str]]:
    steps = list(engine.steps(PROMPT, stop=StopRule(max_new_tokens=40), speculation=Speculation(drafter)))
    return [token for step in steps for token in step.tokens], {step.pick.name for step in steps}


@pytest.mark.parametrize("drafter", [NAME, f"{NAME}>near", f"{NAME}+far", f"ahead:{NAME}"])
def test_it_can_be_asked_for_alone_and_put_together_with_others(stacked_bundle: Path, drafter: str) -> None:
    with Engine.open(stacked_bundle, Request(threads=1, nodes=4, drafters=("far", "near"))) as engine:
        plain = [
            token
            for step in engine.steps(PROMPT, stop=StopRule(max_new_tokens=40), speculation=PLAIN)
            for token in step.tokens
        ]
        text, picks = _text(engine, drafter)
        assert text == plain
        assert any(pick.startswith(drafter) for pick in picks)


def test_the_scheduler_weighs_it_with_all_others(random_bundle: Path) -> None:
    with Engine.open(random_bundle, Request(threads=1, nodes=4, drafters=("far",))) as engine:
        _text(engine, "auto")
        names = {prospect.name for prospect in engine.explain()}
    assert names == {"plain", "suffix-chain", f"{NAME}-chain", "far-chain"}


def test_a_drafter_that_needs_a_file_is_known_where_the_bundle_has_it(random_bundle: Path) -> None:
    with (
        Engine.open(random_bundle, Request(threads=1, nodes=4, drafters=())) as engine,
        pytest.raises(PocketspecError, match=r"no drafter 'table' is open; there are: suffix, parrot"),
    ):
        _text(engine, "table")
    assert set(registry.registered(())) == {"suffix", NAME}
    assert set(registry.registered([DRAFT_TABLE_NAME])) == {"suffix", "table", NAME} == set(registry.registered())


def test_commands_and_the_bench_know_it(
    random_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POCKETSPEC_CACHE", str(random_bundle.parent / "cache"))
    assert main(["generate", str(random_bundle), "--raw", "abc", "--drafter", NAME, "--max-new-tokens", "8"]) == 0
    assert main(["inspect", str(random_bundle)]) == 0
    assert NAME in capsys.readouterr().out
    assert parse_contender(NAME).speculation == Speculation(NAME)
    assert parse_contender(f"{NAME}-chain2").pick_name == f"{NAME}-chain2"


@pytest.mark.parametrize("name", ["", "a>b", "a+b", "ahead:a", "a-b", "auto", "none", NAME, "suffix"])
def test_names_that_are_taken_or_put_together_are_refused(name: str) -> None:
    with pytest.raises(PocketspecError, match="drafter"):
        register(name, lambda spec, resources: Parrot(), longest=3)


@pytest.mark.parametrize("name", ["auto", "none", "grammar", "suffix"])
def test_one_engines_own_drafter_takes_no_name_that_means_another(random_bundle: Path, name: str) -> None:
    own = Parrot()
    own.name = name
    with Engine.open(random_bundle, Request(threads=1)) as engine, pytest.raises(PocketspecError, match="already"):
        engine.add_drafter(own)


def test_a_name_is_parsed_once_for_all() -> None:
    spec = parse_drafter("ahead:suffix+a>b>c")
    assert (spec.kind, spec.parts[0].kind) == ("overlapped", "fallback")
    assert spec.singles == ("suffix", "a", "b", "c")
    assert spec.judges == ("c", "b")
    assert spec.drafts_chains_only
    assert not parse_drafter("suffix+a").drafts_chains_only
    assert parse_drafter("suffix+a>b").needed_levels(["b", "c", "a"]) == ("b", "a")
    for deep in (">a" * 5000, "ahead:" * 5000):
        with pytest.raises(PocketspecError, match="at most 16 levels"):
            parse_drafter(f"a{deep}")
    for wrong in ("ahead:ahead:a", "suffix+ahead:a", "a>ahead:b"):
        with pytest.raises(PocketspecError, match="ahead"):
            parse_drafter(wrong)
