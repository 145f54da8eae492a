"""``distill --target``: from a target to a measured drafter, whatever interrupts it; and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from export.__main__ import main
from export.distill import pipeline, result
from export.distill.answers import AnswerWriter, TargetText, load_texts, save_texts
from export.distill.budget import TimeBudget
from export.distill.checkpoints import CHECKPOINT
from export.distill.corpus import token_ids
from export.distill.prompts import AskedPrompt, Asker, read_prompts
from export.distill.work_folder import WorkFolder
from export.manifest import PocketspecError, read_manifest
from tests.conftest import TinyModels

STORIES = ["Once upon a time a fox lived here.", "Why is the sky blue?", "A train leaves at 9.", "Tom had a dog."]


class _Clock:
    """Time that goes on by ``tick`` whenever somebody looks: runs are the same on any machine under any load."""

    def __init__(self, tick: float) -> None:
        self._ticks, self._tick = itertools.count(), tick

    def monotonic(self) -> float:
        return next(self._ticks) * self._tick


@pytest.fixture
def even_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, tick in (("train", 1.0), ("answers", 20.0), ("work_folder", 0.7)):
        monkeypatch.setattr(f"export.distill.{module}.time", _Clock(tick))
    monkeypatch.setattr("export.distill.answers.LONGEST_ANSWER", 40)


def _interrupted_once(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, calls: int = 0) -> None:
    """The next call but ``calls`` of a function is where the user stops the program."""
    real, left = getattr(module, name), itertools.count()

    def stop(*arguments: Any, **options: Any) -> Any:
        if next(left) == calls:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, stop)


@pytest.mark.usefixtures("even_clocks", "lowered_once")
def test_one_command_makes_a_drafter_however_often_it_is_interrupted(
    tiny_models: TinyModels,
    tiny_bundle_int4: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text, output = tmp_path / "stories.txt", tmp_path / "made"
    text.write_text("\n\n".join(STORIES * 6))
    words = ["distill", "--target", str(tiny_models.target), "--bundle", str(tiny_bundle_int4), "--kind", "pard"]
    words += ["--text", str(text), "--hours", "0.012", "--drafts", "3", "--output", str(output)]
    monkeypatch.setattr(result.DrafterResult, "_measure", lambda self, *_: self.work.measured.write_text("measured"))
    monkeypatch.setattr("export.distill.train.SAVE_SECONDS", 0.0)
    from export.distill import train as training

    for module, name, calls in (
        (pipeline, "save_texts", 2),
        (pipeline, "save_lessons", 2),
        (training, "_step", 2),
        (result, "export_bundle", 0),
    ):
        with monkeypatch.context() as patch:
            _interrupted_once(patch, module, name, calls)
            assert main(words) == 130, name
        assert not list(output.rglob("*.part")), "something half-written was left"
    capsys.readouterr()
    assert main(words) == 0
    said = capsys.readouterr()
    assert not {"answers", "reads", "learning,"} & set(said.err.split("held out:")[0].split()), "it is done already"
    folder, bundle = output / "tiny-target-pard", output / "bundle"
    assert said.out == f"drafter: {folder}\nbundle: {bundle}\n"
    drafter = read_manifest(bundle).levels[1]
    assert (drafter.name, drafter.parallel and drafter.parallel.longest) == ("tiny-target-pard", 3)
    assert drafter.agreement is not None
    card = (folder / "README.md").read_text()
    assert "| command | `python -m export" in card
    assert "measured" in card
    learned = [load_file(place) for place in (folder / "model.safetensors", next(output.rglob("learning-pard/*.saf*")))]
    assert learned[0].keys() == learned[1].keys()
    assert not list(output.rglob(CHECKPOINT))
    before = {path: path.stat().st_mtime_ns for path in bundle.rglob("*.onnx")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in bundle.rglob("*.onnx")} == before
    assert main([*words, "--drafts", "4"]) == 2
    assert "holds work on another request; give another --output" in capsys.readouterr().err


class _Parrot:
    """An exported target that answers every prompt with its last tokens, and ends with 2."""

    capacity = 64
    manifest = SimpleNamespace(target=SimpleNamespace(vocabulary=SimpleNamespace(entries=99, eos_token_ids=(2,))))

    def __init__(self) -> None:
        self.temperatures: list[float] = []

    def generate(self, prompt: list[int], *, sampling: Any, max_new_tokens: int) -> Iterator[Any]:
        self.temperatures.append(sampling.temperature)
        yield SimpleNamespace(step=SimpleNamespace(tokens=[*prompt[-2:], sampling.seed % 7 + 20, 2][:max_new_tokens]))


class _Bytes:
    """A tokenizer of bytes, with a template around a user's message or without."""

    def __init__(self, template: bool) -> None:
        self.chat_template = "template" if template else None

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return f"<{messages[0]['content']}>"

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def decode(self, tokens: list[int], **_: Any) -> str:
        return bytes(tokens).decode(errors="replace")


def _written(asker: Asker, given: list[AskedPrompt], known: list[TargetText], count: int) -> list[TargetText]:
    writer = AnswerWriter(_Parrot(), asker, given, known)  # type: ignore[arg-type]
    return list(itertools.islice(writer.write(1e9), count))


def test_a_target_that_chats_writes_the_users_message_and_answers_it() -> None:
    asker = Asker(_Bytes(template=True), begin=None)
    texts = _written(asker, [], [], 3)
    assert [bytes(text.tokens[: text.begin].tolist()).decode() for text in texts] == [f"<{t.prompt}>" for t in texts]
    assert len({text.prompt for text in texts}) == 3, "no prompt twice"


def test_a_target_without_a_template_goes_on_with_what_it_began() -> None:
    texts = _written(Asker(_Bytes(template=False), begin=1), [], [], 3)
    for text in texts:
        assert text.tokens[0] == 1
        assert 2 < text.begin < len(text.tokens)


def test_another_run_goes_on_where_the_last_one_was() -> None:
    asker = Asker(_Bytes(template=True), begin=None)
    given = [asker.ask(story) for story in STORIES * 4]
    whole = _written(asker, given, [], 9)
    begun = whole[:4]
    assert [t.number for t in begun + _written(asker, given, begun, 5)] == [text.number for text in whole]
    assert [text.prompt for text in begun + _written(asker, given, begun, 5)] == [text.prompt for text in whole]


def test_a_prompt_whose_answer_is_held_out_is_not_learned_in_another_round() -> None:
    asker = Asker(_Bytes(template=True), begin=None)
    given = [asker.ask(f"story {number}") for number in range(25)]
    texts = _written(asker, given, [], 1000)
    held_out = {text.prompt for text in texts if text.is_held_out}
    assert held_out == {"story 0", "story 10"}  # the 20th is answered at a temperature
    assert not held_out & {text.prompt for text in texts if not text.is_held_out}
    assert len(texts) > 2 * len(given)


def test_texts_are_what_was_saved(tmp_path: Path) -> None:
    texts = [TargetText(3, token_ids([1, 2, 3]), 2, "ä", "k"), TargetText(5, token_ids([70_000]), 1, "b")]
    save_texts(texts, tmp_path / "t.npz")
    back = load_texts(tmp_path / "t.npz")
    assert [(t.number, t.tokens.tolist(), t.begin, t.prompt, t.kind) for t in back] == [
        (3, [1, 2, 3], 2, "ä", "k"),
        (5, [70_000], 1, "b", ""),
    ]


def test_a_template_is_read_from_a_checkpoint(tiny_models: TinyModels) -> None:
    asker = Asker(AutoTokenizer.from_pretrained(tiny_models.target), begin=None)
    assert asker.chats
    ends = asker.behind[0]
    assert asker.ask("hi").tokens[len(asker.before) + 2] == ends
    own = asker.own(asker.ask("why?").tokens[len(asker.before) : -len(asker.behind)])
    assert own == asker.ask("why?")
    assert asker.own([]) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b" \n\n \n", "empty.txt: there is no text in it"),
        ("empty.jsonl", b"", "empty.jsonl: there is no text in it"),
        ("broken.jsonl", b'{"prompt": "a"', "broken.jsonl: it is no UTF-8 text, or no JSON lines with prompt"),
        ("other.jsonl", b'{"question": "a"}\n', "other.jsonl: it is no UTF-8 text, or no JSON lines with prompt"),
        ("image.txt", b"\xff\xd8\xff\xe0", "image.txt: it is no UTF-8 text"),
        ("long.txt", b"word " * 200, "every prompt has more than 500 tokens"),
    ],
)
def test_text_that_is_none_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PocketspecError, match=message):
        read_prompts([tmp_path / name], Asker(_Bytes(template=True), None), print)


def test_a_script_that_is_broken_into_bytes_is_one_warning(tmp_path: Path) -> None:
    warned: list[str] = []
    for name, text in (("latin.txt", "Once upon a time."), ("thai.txt", "กาลครั้งหนึ่งนานมาแล้ว")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        read_prompts([tmp_path / name], Asker(_Bytes(template=True), None), warned.append)
    assert len(warned) == 1
    assert "thai.txt: the target's tokenizer breaks this script into bytes" in warned[0]


def test_json_lines_and_paragraphs_are_prompts_kinds_in_turn(tmp_path: Path) -> None:
    lines = [{"prompt": f"{kind}{number}", "response": "", "kind": kind} for kind in "ab" for number in range(2)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "p.txt").write_text("one\ntwo\n\nthree\n")
    asked = read_prompts([tmp_path / "p.jsonl", tmp_path / "p.txt"], Asker(_Bytes(template=True), None), print)
    assert [prompt.text for prompt in asked] == ["a0", "b0", "one\ntwo", "a1", "b1", "three"]


def test_the_hours_are_shared_and_answers_take_a_third_at_most() -> None:
    for export in (0.0, 60.0, 600.0):
        budget = TimeBudget(1.0, export)
        budget.check()
        spent = budget.answer_seconds + budget.reading_seconds
        assert budget.answer_seconds <= 1200
        assert budget.learning_seconds(spent) >= spent * 0.5
        assert export + spent + budget.learning_seconds(spent) < 3600
    with pytest.raises(PocketspecError, match=r"--hours 0.1: exporting the target took 300 s.*give at least 0\.2"):
        TimeBudget(0.1, 300).check()


def test_a_folder_is_of_one_request(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "made", "d", {"kind": "small"})
    work.spend("answers", 3.0)
    assert WorkFolder(tmp_path / "made", "d", {"kind": "small"}).spent() == 3.0
    with pytest.raises(PocketspecError, match="holds work on another request"):
        WorkFolder(tmp_path / "made", "d", {"kind": "pard"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(PocketspecError, match="other is in the way, and is no work of this command"):
        WorkFolder(tmp_path / "other", "d", {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "early-exit"], "reach 1.05 x plain decoding at best"),
        (["--kind", "small", "--hours", "0"], "--hours 0; write a number of hours above 0"),
        (["--kind", "small", "--text", "nowhere.txt"], "--text nowhere.txt: no such file"),
        (["--kind", "small", "--start", "nowhere"], "--start nowhere: no such folder"),
        (["--kind", "best"], "argument --kind: invalid choice: 'best'"),
        ([], "the following arguments are required: --kind"),
        (["--kind", "pard", "--drafts", "1"], "--drafts 1; write 2 to 64"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    words = ["distill", "--target", "demo", *options, "--output", str(tmp_path / "made")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("spoil", ["tokenizer.json", "model.safetensors", "config.json"])
def test_a_target_that_is_not_understood_is_one_line(
    tiny_models: TinyModels, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: str
) -> None:
    import shutil

    target = Path(shutil.copytree(tiny_models.target, tmp_path / "target"))
    (target / spoil).write_text("{")
    words = ["distill", "--target", str(target), "--kind", "small", "--output", str(tmp_path / "made")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in error
    assert not list((tmp_path / "made").rglob("*.onnx"))
