"""Training: what the optimizer, the windows and the lessons promise, and that an interrupted run continues."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from export.distill.checkpoints import CHECKPOINT
from export.distill.corpus import Corpus, Record, encode, in_turn
from export.distill.family import FAMILY, from_layers
from export.distill.lessons import TOP, Lessons, join, load_lessons, read_text, run_answers, save_lessons, write_answers
from export.distill.measure import Answered, agreement, answer, markdown, measure, repetition
from export.distill.muon import Muon, orthogonalize
from export.distill.tokenizer import train_tokenizer
from export.distill.train import NextTokenObjective, Schedule, TeacherObjective, TrainingProgress, train
from export.manifest import PocketspecError

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
    eos_token_id=2,
    tie_word_embeddings=True,
)
# Every token follows from the one before: a model that learns anything learns this.
CYCLE = Corpus(np.tile(np.arange(3, 19, dtype=np.uint16), 64), np.arange(0, 1024, 16))
TICK = 0.024  # seconds, of which a step counts one: a brief run has 100 steps
BRIEF = Schedule(minutes=0.04, tokens_per_step=256, length=16, long_length=32, matrix_rate=0.01, vector_rate=0.01)


def _model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIG))  # saving a model changes its own


@pytest.fixture(scope="module", autouse=True)
def _even_clock() -> Iterator[None]:
    """Schedules follow the clock: this one gives every run the same number of steps on any machine under any load."""
    ticks = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.distill.train.time", SimpleNamespace(monotonic=lambda: next(ticks) * TICK))
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = _model()
    train(model, NextTokenObjective(CYCLE), BRIEF, tmp_path_factory.mktemp("teacher"))
    return model.float().eval()


def test_orthogonalized_updates_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    for candidate in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalize(candidate))
        assert 0.6 < values.min().item() <= values.max().item() < 1.3


def test_muon_moves_against_the_gradient_by_the_size_of_an_adamw_step() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    weight.grad = torch.eye(8)
    Muon([weight], lr=0.1).step()
    assert (weight.diagonal() < 0).all()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.3)


def test_windows_are_pieces_of_the_stream_and_half_begin_a_conversation() -> None:
    index = CYCLE.window_index(np.random.default_rng(0), 400, 20)
    assert index.shape == (400, 21)
    assert (np.diff(index, axis=1) == 1).all()
    assert index.min() >= 0
    assert index.max() < len(CYCLE.tokens)
    assert 0.45 < np.isin(index[:, 0], CYCLE.starts).mean() < 0.65


def test_a_conversation_is_encoded_with_the_chat_template() -> None:
    tokenizer = train_tokenizer(["hello there, how are you"] * 4, 300, 64)
    corpus = encode([Record("hello", "there", "k"), Record("how", "are you", "k")], tokenizer)
    text = tokenizer.decode(corpus.tokens[: corpus.starts[1]])
    assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nthere<|im_end|>\n"
    assert len(corpus.starts) == 2


def test_records_of_all_kinds_come_in_turn() -> None:
    records = [Record(str(number), "", kind) for number, kind in enumerate("aaabbc")]
    assert [record.prompt for record in in_turn(records)] == ["0", "3", "5", "1", "4", "2"]


def test_training_learns_and_leaves_an_ordinary_checkpoint(teacher: Any, tmp_path: Path) -> None:
    assert answer(teacher, [3, 4, 5], 8) == list(range(6, 14))


def test_an_interrupted_run_continues_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[TrainingProgress] = []

    def stop(progress: TrainingProgress) -> None:
        reached.append(replace(progress))
        raise KeyboardInterrupt

    monkeypatch.setattr("export.distill.train.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("export.distill.train.REPORT_STEPS", 3)
    with pytest.raises(KeyboardInterrupt):
        train(_model(), NextTokenObjective(CYCLE), BRIEF, tmp_path, report=stop)
    assert (tmp_path / CHECKPOINT).is_file()
    final = train(_model(seed=1), NextTokenObjective(CYCLE), BRIEF, tmp_path)
    assert final.steps > reached[0].steps
    assert final.seconds >= BRIEF.minutes * 60
    assert (tmp_path / "model.safetensors").is_file()
    assert not (tmp_path / CHECKPOINT).exists()


def test_lessons_hold_the_teachers_distribution_after_each_token(teacher: Any, tmp_path: Path) -> None:
    read = read_text(teacher, CYCLE, 64)
    token = int(read.corpus.tokens[5])
    assert int(read.ids[5, 0]) == (token + 1 if token < 18 else 3)
    np.testing.assert_allclose(read.probs.astype(np.float32).sum(1), 1, atol=2e-3)
    save_lessons(read, tmp_path / "l.npz")
    np.testing.assert_array_equal(load_lessons(tmp_path / "l.npz").ids, read.ids)
    both = join([read, read])
    half = len(read.corpus.tokens)
    np.testing.assert_array_equal(both.corpus.starts, [*read.corpus.starts, *(read.corpus.starts + half)])


def test_the_exported_teacher_writes_answers_until_there_are_enough(teacher: Any) -> None:
    class Exported:
        """What runs the teacher elsewhere, two tokens a step."""

        def generate(self, prompt: list[int], *, sampling: Any, max_new_tokens: int) -> Iterator[Any]:
            assert sampling.temperature == 0.0
            reply = answer(teacher, prompt, max_new_tokens)
            for place in range(0, len(reply), 2):
                yield SimpleNamespace(step=SimpleNamespace(tokens=reply[place : place + 2]))

    prompts = [[3, 4, 5], [6, 7, 8, 9, 10], [4, 5]]
    corpus = run_answers(Exported(), prompts, tokens=12, temperature=0.0, longest=6)  # type: ignore[arg-type]
    rows = np.split(corpus.tokens, corpus.starts[1:])
    assert [row.tolist() for row in rows] == [prompt + answer(teacher, prompt, 6) for prompt in prompts[:2]]
    read = read_text(teacher, corpus, len(corpus.tokens))
    assert (read.corpus.tokens == corpus.tokens).all()


def test_greedy_answers_are_the_teachers_own_and_cut_at_the_end_token(teacher: Any) -> None:
    prompts = [[3, 4, 5], [6, 7, 8, 9, 10]]  # the shorter one is padded
    lessons = write_answers(teacher, prompts, tokens=1, temperature=0.0, longest=6, rows=2)
    starts = [*lessons.corpus.starts, len(lessons.corpus.tokens)]
    for prompt, begin, end in zip(prompts, starts, starts[1:], strict=False):
        row = [int(token) for token in lessons.corpus.tokens[begin:end]]
        assert row == (prompt + answer(teacher, prompt, 6))[: len(row)]
        assert len(row) > len(prompt)
        assert [int(choice) for choice in lessons.ids[begin + len(prompt) - 1 : end - 1, 0]] == row[len(prompt) :]


def test_a_student_learns_to_agree_with_its_teacher(teacher: Any, tmp_path: Path) -> None:
    lessons: Lessons = read_text(teacher, CYCLE, 1024)
    assert lessons.ids.shape[1] == TOP
    prompts = [[3, 4, 5], [7, 8, 9]]
    answers = [answer(teacher, prompt, 10) for prompt in prompts]
    student = _model(seed=2)
    before = agreement(student, prompts, answers)
    train(student, TeacherObjective(lessons), BRIEF, tmp_path)
    assert agreement(student.float(), prompts, answers) > max(0.8, before)


def test_repetition_counts_phrases_that_stood_in_the_same_answer_before() -> None:
    fresh = list(range(16))
    assert repetition([fresh, fresh]) == 0
    assert repetition([[1, 2]]) == 0
    assert repetition([fresh + fresh]) == pytest.approx(9 / 25)


def test_what_was_measured_stands_in_a_page(teacher: Any) -> None:
    prompts = [[3, 4, 5], [7, 8, 9]]
    records = [Record(f"prompt {number}", "", kind) for number, kind in enumerate("ab")]
    answers = [
        Answered(record, prompt, answer(teacher, prompt, 10), f"text {record.kind}")
        for record, prompt in zip(records, prompts, strict=True)
    ]
    found = measure({"large": teacher, "same": teacher}, "large", answers, CYCLE)
    assert found.agreements == {"same": 1.0}
    assert found.by_kind == {"a": {"same": 1.0}, "b": {"same": 1.0}}
    assert found.perplexities["large"] == found.perplexities["same"]
    page = "\n".join(markdown(found, samples=1))
    assert "| same |" in page and "| 1.000 |" in page  # noqa: PT018
    assert "### prompt 0\n\ntext a" in page
    assert "prompt 1" not in page


def test_training_begins_as_the_checkpoint_it_is_given(teacher: Any, tmp_path: Path) -> None:
    from export.distill import commands

    teacher.save_pretrained(tmp_path / "start")
    arguments = SimpleNamespace(start=tmp_path / "start", size="target")
    begun = commands._new_model(arguments)  # type: ignore[arg-type]
    assert all(torch.equal(*pair) for pair in zip(begun.parameters(), teacher.parameters(), strict=True))


def test_a_student_of_all_layers_is_its_teacher_and_one_of_some_has_only_those() -> None:
    config = LlamaConfig(**{**CONFIG.to_dict(), "num_hidden_layers": 3})
    teacher = AutoModelForCausalLM.from_config(config).float().eval()
    row = torch.tensor([[3, 4, 5, 6]])
    same = from_layers(teacher, [0, 1, 2]).eval()
    assert torch.equal(same(row).logits, teacher(row).logits)
    some = from_layers(teacher, [0, 2])
    assert some.config.num_hidden_layers == 2
    assert torch.equal(some.model.layers[1].mlp.up_proj.weight, teacher.model.layers[2].mlp.up_proj.weight)
    with torch.no_grad():
        some.model.norm.weight.zero_()
    assert torch.equal(teacher.model.norm.weight, torch.ones(32)), "a student must not share its teacher's weights"


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0], [-1, 0], [0, 1]])
def test_layers_that_a_teacher_has_not_are_refused(layers: list[int]) -> None:
    with pytest.raises(PocketspecError, match="increasing numbers from 0 to 0"):
        from_layers(_model(), layers)


def test_the_family_is_as_small_as_it_says() -> None:
    with torch.device("meta"):
        sizes = {name: AutoModelForCausalLM.from_config(config).num_parameters() for name, config in FAMILY.items()}
    assert 8e6 <= sizes["target"] <= 11e6
    assert sizes["drafter"] <= 0.6e6
    assert all(config.head_dim % 16 == 0 for config in FAMILY.values())
