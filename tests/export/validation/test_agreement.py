"""Agreement with the target: on the target's own greedy answers, of everyone who is no random weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.bundle import export_bundle
from export.manifest import Source, read_manifest
from export.report import SilentReporter
from export.request import ExportRequest
from export.validation import agreement
from export.validation.agreement import AnsweredPrompt, answer, read_prompts, with_agreement
from export.validation.check_text import OPENINGS, PROMPTS
from export.validation.kv_quality import EffectsError
from runtime import Engine
from runtime.text.tokenizer import Tokenizer
from tests.conftest import TinyModels
from tests.export.graph.test_kv_variants import open_graph


def test_a_model_agrees_with_itself(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    for bundle in (tiny_bundle, tiny_bundle_int4):
        target, before = read_manifest(bundle).target, sorted(bundle.rglob("native.data"))
        mirrored = with_agreement(bundle, "model.onnx", (target, replace(target, role="intermediate")))
        assert [level.agreement for level in mirrored] == [None, 1.0]
        assert sorted(bundle.rglob("native.data")) == before


def test_packed_weights_that_were_there_stay(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "native.data").touch()
    with_agreement(bundle, "model.onnx", read_manifest(bundle).levels)
    assert (bundle / "native.data").is_file()


def test_prompts_are_instructions_where_there_is_a_template_and_openings_else(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.open(tiny_bundle)
    assert read_prompts(tiny_bundle)[1] == tokenizer.encode_chat([{"role": "user", "content": PROMPTS[1]}])
    shutil.copyfile(tiny_bundle / "tokenizer.json", tmp_path / "tokenizer.json")
    assert read_prompts(tmp_path)[1] == tokenizer.encode(OPENINGS[1])


def test_answers_are_those_of_plain_decoding(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "TOKENS", 40)
    prompts = [[5, 6, 7], list(range(100, 140))]
    copied = shutil.copytree(tiny_bundle, tmp_path / "bundle")  # engines write beside what they open
    with Engine.open(copied, kernels="portable") as engine:
        wanted = [
            [token for chunk in engine.generate(prompt, max_new_tokens=20) for token in chunk.step.tokens]
            for prompt in prompts
        ]
    eos = read_manifest(tiny_bundle).target.vocabulary.eos_token_ids
    texts = list(answer(open_graph(tiny_bundle, "fp32"), prompts, eos))
    assert [text.tokens[: text.start] for text in texts] == [tuple(prompt) for prompt in prompts]
    assert [list(text.tokens[text.start :]) for text in texts] == wanted


def test_an_answer_ends_with_its_end_token_the_room_or_the_time(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_graph(tiny_bundle, "fp32")
    (text,) = answer(model, [[5, 6, 7]], ())
    assert len(text.tokens) == min(3 + agreement.TOKENS, model.cache.capacity - 1)
    end = text.tokens[10]
    (short,) = answer(model, [[5, 6, 7]], (end,))
    assert short.tokens == text.tokens[: text.tokens.index(end, 3) + 1]
    monkeypatch.setattr(agreement, "SECONDS", 0.0)
    monkeypatch.setattr(agreement, "LEAST", 8)
    (hasty,) = answer(model, [[5, 6, 7]], ())
    assert hasty.tokens == text.tokens[: 3 + 8]


def test_agreement_is_the_share_of_equal_tokens_behind_the_prompt(tiny_bundle: Path) -> None:
    drafter = read_manifest(tiny_bundle).levels[1]
    model = open_graph(tiny_bundle / drafter.folder, "fp32")
    prompt = tuple(np.random.default_rng(3).integers(0, 256, 33).tolist())  # a chunk, and a token
    first = int(model.forward(prompt).logits[-1].argmax())
    other = (first + 1) % 256
    assert agreement.agreement(model, [AnsweredPrompt((*prompt, first), 33)]) == 1.0
    assert (
        agreement.agreement(model, [AnsweredPrompt((*prompt, other), 33), AnsweredPrompt((*prompt, first), 33)]) == 0.5
    )
    assert agreement.agreement(model, [AnsweredPrompt(prompt, 33)]) is None


def test_random_weights_agree_with_nobody(tiny_bundle: Path) -> None:
    target, drafter = read_manifest(tiny_bundle).levels
    assert drafter.agreement is not None
    random = Source("nothing", kind="random-weights")
    for levels in ((target, replace(drafter, source=random)), (replace(target, source=random), drafter)):
        bare = tuple(replace(level, agreement=None) for level in levels)
        assert with_agreement(tiny_bundle, "model.onnx", bare) == bare


@pytest.mark.usefixtures("lowered_once")
def test_what_cannot_be_measured_is_noted(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    class Recorder(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    def refuse(*given: object) -> None:
        raise EffectsError("too large")

    monkeypatch.setattr(agreement, "open_kernels", refuse)
    request = ExportRequest(
        str(tiny_models.target), tmp_path / "out", weights="fp32", drafters=(str(tiny_models.drafter),)
    )
    assert [level.agreement for level in read_manifest(export_bundle(request, Recorder())).levels] == [None, None]
    assert notes == ["how often drafters agree with tiny-target is not known: too large"]
