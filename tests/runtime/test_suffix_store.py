"""A suffix store in engines: what one conversation said, the next one drafts, and the text stays the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory.choices import Request
from memory.footprint import SUFFIX_STORE
from runtime import Engine
from runtime.__main__ import main
from runtime.drafters.store_file import StoreError
from runtime.drafters.suffix_store import STORE_BYTES
from runtime.speculation.request import PLAIN, Speculation

SUFFIX = Speculation("suffix")
REQUEST = Request(context=256)


def _say(engine: Engine, text: str, speculation: Speculation = SUFFIX) -> tuple[list[int], int]:
    """The tokens of an answer, and how many steps it took."""
    chunks = engine.generate(text, speculation=speculation, max_new_tokens=60, ignore_eos=True)
    steps = [chunk.step for chunk in chunks]
    return [token for step in steps for token in step.tokens], len(steps)


def test_a_second_conversation_takes_fewer_steps_for_the_same_text(tiny_bundle: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Engine.open(tiny_bundle, REQUEST) as engine:
        plain = [_say(engine, text, PLAIN)[0] for text in ("The lantern", "A dog", "The lantern")]
    found = []
    for _ in range(2):
        with Engine.open(tiny_bundle, REQUEST, suffix_store=store) as engine:
            found.append(_say(engine, "The lantern"))
            assert _say(engine, "A dog")[0] == plain[1]
    (first, long), (second, short) = found
    assert first == second == plain[0]
    assert short < long


def test_the_plan_counts_it_and_a_plan_without_it_has_none(tiny_bundle: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Engine.open(tiny_bundle, REQUEST) as engine:
        without = engine.plan
    with Engine.open(tiny_bundle, REQUEST, suffix_store=store) as engine:
        assert engine.plan.process.part(SUFFIX_STORE).anonymous == STORE_BYTES
        assert engine.plan.needed_bytes >= without.needed_bytes + STORE_BYTES
        _say(engine, "The lantern")
    written = store.read_bytes()
    with Engine.open(tiny_bundle, plan=without, suffix_store=store) as engine:
        _say(engine, "A dog")
    assert store.read_bytes() == written


def test_a_cancelled_answer_is_remembered_as_far_as_it_came(tiny_bundle: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Engine.open(tiny_bundle, REQUEST, suffix_store=store) as engine:
        answer = engine.generate("The lantern", speculation=SUFFIX, ignore_eos=True)
        next(answer)
        answer.close()
        assert store.is_file()


def test_it_is_in_use_while_an_engine_is_open(tiny_bundle: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with Engine.open(tiny_bundle, REQUEST, suffix_store=store):
        with pytest.raises(StoreError, match="is in use"):
            Engine.open(tiny_bundle, REQUEST, suffix_store=store)
        assert main(["forget", str(store)]) == 2
    Engine.open(tiny_bundle, REQUEST, suffix_store=store).close()


def test_commands_take_it(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    words = ["generate", str(tiny_bundle), "--context", "256", "--max-new-tokens", "5", "--suffix-store", str(store)]
    assert main([*words, "A dog"]) == 0
    assert store.is_file()
    assert main(["serve", str(tiny_bundle), f"other={tiny_bundle}", "--port", "0", "--suffix-store", str(store)]) == 2
    assert "--suffix-store is of one model, and several are served" in capsys.readouterr().err
    assert main(["forget", str(store)]) == 0
    assert not store.exists()
