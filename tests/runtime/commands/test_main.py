"""The command line: text alone on standard output, one line for every refusal, and exit codes that scripts can use."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.__main__ import main
from runtime.commands import generate
from runtime.engine import Engine
from runtime.speculation.request import PLAIN
from runtime.text.template_data import Message
from runtime.text.tokenizer import Tokenizer
from tests.places import ROOT


@pytest.fixture
def bundle(random_bundle: Path) -> str:
    return str(random_bundle)


def expected_text(engine: Engine, prompt: str = "Hello", tokens: int = 20) -> str:
    return "".join(chunk.text for chunk in engine.generate(prompt, max_new_tokens=tokens, speculation=PLAIN))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        code = main([*arguments, "--threads", "1"] if "--help" not in arguments else arguments)
    except SystemExit as stopped:  # argparse's way
        code = int(stopped.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    "speculation",
    [["--no-speculation"], [], ["--drafter", "far", "--draft-size", "2"], ["--drafter", "near", "--shape", "tree"]],
    ids=str,
)
def test_standard_output_carries_the_text_alone(
    capsys: pytest.CaptureFixture[str], bundle: str, engine: Engine, speculation: list[str]
) -> None:
    code, out, _ = run(capsys, "generate", bundle, "Hello", "--max-new-tokens", "20", *speculation)
    assert (code, out) == (0, expected_text(engine))


def test_statistics_plan_and_steps_go_to_standard_error(
    capsys: pytest.CaptureFixture[str], bundle: str, engine: Engine
) -> None:
    code, out, err = run(capsys, "generate", bundle, "Hello", "--max-new-tokens", "20", "--stats", "--verbose")
    assert (code, out) == (0, expected_text(engine))
    assert "plan for tiny: " in err
    assert "step 1: accepted " in err
    assert "20 tokens in " in err.splitlines()[-1]


def test_json_is_one_object(capsys: pytest.CaptureFixture[str], bundle: str, engine: Engine) -> None:
    code, out, _ = run(capsys, "generate", bundle, "Hello", "--max-new-tokens", "20", "--json")
    data = json.loads(out)
    assert code == 0
    assert out.count("\n") == 1
    assert data["text"] == expected_text(engine)
    assert engine.tokenizer.decode(data["tokens"]) == data["text"]
    assert len(data["sources"]) == len(data["tokens"]) == data["stats"]["tokens"] == 20
    assert (data["finish"], data["seed"]) == ("length", None)
    assert set(data["sources"]) <= {"near", "far", "suffix", "target"}
    assert {prospect["name"] for prospect in data["explanation"]} >= {"plain", "near-chain"}


def test_the_prompt_comes_from_a_file_or_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: str, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "prompt.txt").write_text("Hello\n")
    length = ("--max-new-tokens", "20")
    assert run(capsys, "generate", bundle, "--prompt-file", str(tmp_path / "prompt.txt"), *length)[1] == expected_text(
        engine
    )
    for dash in ([], ["-"], ["--prompt-file", "-"]):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Hello\n")))
        assert run(capsys, "generate", bundle, *dash, *length)[1] == expected_text(engine)


def test_a_drawn_seed_is_told_and_repeats_the_text(capsys: pytest.CaptureFixture[str], bundle: str) -> None:
    arguments = ["generate", bundle, "Hello", "--max-new-tokens", "20", "--json", "--temperature", "0.8"]
    first = json.loads(run(capsys, *arguments)[1])
    again = json.loads(run(capsys, *arguments, "--seed", str(first["seed"]), "--no-speculation")[1])
    assert again["tokens"] == first["tokens"]
    assert json.loads(run(capsys, *arguments)[1])["seed"] != first["seed"]


def test_stop_strings_and_system_messages(capsys: pytest.CaptureFixture[str], bundle: str, engine: Engine) -> None:
    text = expected_text(engine)
    code, out, _ = run(
        capsys, "generate", bundle, "Hello", "--max-new-tokens", "20", "--stop", "no such text", "--stop", text[9:11]
    )
    assert (code, out) == (0, text[: text.index(text[9:11])])
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    code, out, _ = run(capsys, "generate", bundle, "Hello", "--max-new-tokens", "20", "--system", "Be brief.")
    chunks = engine.generate(asked, max_new_tokens=20, speculation=PLAIN)
    assert (code, out) == (0, "".join(chunk.text for chunk in chunks))


def test_a_model_without_template_continues_and_says_so(capsys: pytest.CaptureFixture[str], plain_bundle: Path) -> None:
    code, out, err = run(capsys, "generate", str(plain_bundle), "Hello", "--max-new-tokens", "5")
    assert code == 0
    assert len(out) == 5
    assert "note: this model has no chat template: the prompt is continued as it is" in err
    _, raw, err = run(capsys, "generate", str(plain_bundle), "Hello", "--max-new-tokens", "5", "--raw")
    assert (raw, "chat template" in err) == (out, False)


def test_options_without_effect_are_not_silent(capsys: pytest.CaptureFixture[str], bundle: str) -> None:
    _, _, err = run(capsys, "generate", bundle, "Hello", "--max-new-tokens", "2", "--top-p", "0.9", "--seed", "1")
    assert "note: --top-p changes nothing at temperature 0; pass --temperature" in err
    assert "note: --seed changes nothing" in err


REFUSALS = [
    (["generate", "BUNDLE", "hi", "--frobnicate"], "unrecognized arguments: --frobnicate"),
    (["frobnicate"], "invalid choice: 'frobnicate'"),
    ([], "the following arguments are required: COMMAND"),
    (["generate"], "the following arguments are required: BUNDLE"),
    (["generate", "BUNDLE", "hi", "--top-k", "many"], "argument --top-k: invalid int value: 'many'"),
    (["generate", "BUNDLE", "hi", "--max-memory", "2 elephants"], "'2 elephants' is no size; write a number of bytes"),
    (["generate", "BUNDLE", "hi", "--max-memory", "1KB"], "1,000 bytes are "),
    (["generate", "nowhere", "hi"], "no bundle at nowhere: no such folder; make one with python -m export"),
    (["generate", "BUNDLE", "hi", "--drafter", "nobody"], "no drafter 'nobody' in "),
    (["generate", "BUNDLE", "hi", "--drafter", "suffix+nobody"], "no drafter 'nobody' in "),
    (["generate", "BUNDLE", "hi", "--drafter", "nobody"], "there are: near, far, suffix, none, auto"),
    (["generate", "BUNDLE", "hi", "--drafter", "near", "--no-speculation"], "contradict each other"),
    (["generate", "BUNDLE", "hi", "--draft-size", "2", "--no-speculation"], "--draft-size means nothing without"),
    (["generate", "BUNDLE", "hi", "--draft-size", "0"], "--draft-size 0: it must be at least 1"),
    (["generate", "BUNDLE", "hi", "--temperature", "-1"], "temperature is -1.0, allowed: 0 to"),
    (["generate", "BUNDLE", "hi", "--acceptance", "block"], "acceptance 'block' needs a temperature above 0"),
    (["generate", "BUNDLE", "hi", "--max-new-tokens", "0"], "max_new_tokens is 0; it must be at least 1"),
    (["generate", "BUNDLE", "hi", "--stop", ""], "a stop string must not be empty"),
    (["generate", "BUNDLE", "hi", "--context", "100000"], "a context of 100000 tokens is outside 2..512"),
    (["generate", "BUNDLE", "x" * 600], "a prompt of 620 tokens; allowed are 1 to 511 in a context of 512"),
    (["generate", "BUNDLE", "hi", "--raw", "--system", "x"], "so there is no place for --system"),
    (["generate", "BUNDLE", "hi", "--prompt-file", "x"], "a prompt and --prompt-file contradict each other"),
    (["generate", "BUNDLE", "--prompt-file", "nowhere"], "cannot read the prompt from nowhere: No such file"),
    (["inspect", "nowhere"], "no bundle at nowhere"),
    (["bench", "BUNDLE", "--compare", "fast"], "no contender 'fast'; write plain, plain-safe, suffix"),
    (["bench", "BUNDLE", "--compare", "nobody-chain3"], "there are: near, far, suffix, none, auto"),
    (["bench", "BUNDLE", "--baseline", "other"], "--baseline other is not among the contenders: plain, plain-safe"),
    (["bench", "BUNDLE", "--repeat", "0"], "--repeat 0: it must be at least 1"),
    (["bench", "BUNDLE", "--rows", "1;2"], "--rows 1;2: write counts with commas"),
    (["bench", "BUNDLE", "--output", "table.xls"], "--output table.xls: the name must end in .md, .csv or .json"),
    (["bench", "BUNDLE", "--prompts", "nowhere"], "cannot read prompts from nowhere"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSALS, ids=[message[:40] for _, message in REFUSALS])
def test_refusals_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], bundle: str, arguments: list[str], message: str
) -> None:
    filled = [bundle if argument == "BUNDLE" else argument for argument in arguments]
    code, out, err = run(capsys, *filled) if filled else (main_without_arguments(), *capsys.readouterr())
    assert (code, out) == (2, "")
    errors = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]


def main_without_arguments() -> int:
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_one_line_break_at_the_end_of_a_prompt_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("a\nb\n\n")
    assert generate.read_prompt(None, tmp_path / "prompt.txt") == "a\nb\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("日\n".encode())))
    assert generate.read_prompt("-", None) == "日"
    assert generate.read_prompt("as it is\n", None) == "as it is\n"


def test_bad_bytes_on_standard_input_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"abc\xff")))
    code, _, err = run(capsys, "generate", bundle)
    assert (code, err) == (2, "error: the prompt from standard input is not UTF-8 text at byte 3\n")


@pytest.mark.parametrize("json_wanted", [False, True])
def test_an_interrupt_keeps_what_was_generated(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bundle: str,
    engine: Engine,
    json_wanted: bool,
) -> None:
    show, shown = generate._show, []

    def show_and_interrupt(*arguments: object) -> None:
        show(*arguments)  # type: ignore[arg-type]
        shown.append(arguments)
        if len(shown) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(generate, "_show", show_and_interrupt)
    arguments = ["--no-speculation", "--stats", *(["--json"] if json_wanted else [])]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        code, out, err = run(capsys, "generate", bundle, "Hello", *arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    text = json.loads(out)["text"] if json_wanted else out
    assert code == 130
    assert text == expected_text(engine)[:3]
    assert "3 tokens in" in err
    if json_wanted:
        assert json.loads(out)["finish"] == "interrupted"


def test_compare_shows_the_same_text_twice(capsys: pytest.CaptureFixture[str], bundle: str, engine: Engine) -> None:
    code, out, _ = run(capsys, "compare", bundle, "Hello", "--max-new-tokens", "20", "--drafter", "near")
    assert code == 0
    assert out.startswith("== prompt\nHello\n")
    assert out.count(expected_text(engine)) == 2
    text, speed, memory = out.splitlines()[-3:]
    assert text == "== exact: identical text with and without speculation, all 20 tokens"
    assert re.fullmatch(r"== (faster|slower|as fast): \d+\.\d\d x the tokens/s of plain decoding .*", speed)
    assert re.fullmatch(r"== (within the plan|BEYOND the plan|memory): .* planned and a margin of .*", memory)


def test_compare_fails_when_texts_differ(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: str
) -> None:
    monkeypatch.setattr("runtime.commands.compare._tokens", lambda chunks: [object()])
    code, out, _ = run(capsys, "compare", bundle, "Hello", "--max-new-tokens", "5")
    assert code == 1
    assert "== DIFFERENT text\n" in out


def test_compare_expects_no_equal_draws_of_rules_that_keep_the_law_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: str
) -> None:
    monkeypatch.setattr("runtime.commands.compare._tokens", lambda chunks: [object()])
    sampled = ("--max-new-tokens", "5", "--temperature", "1", "--seed", "1", "--drafter", "near")
    code, out, _ = run(capsys, "compare", bundle, "Hello", *sampled, "--acceptance", "block")
    assert code == 0
    assert "== another draw of one law, so another text\n" in out


def test_chat_answers_line_by_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bundle: str,
    plain_bundle: Path,
    engine: Engine,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n\nmore\n"))
    code, out, err = run(capsys, "chat", bundle, "--max-new-tokens", "20", "--stats")
    assert code == 0
    assert out.startswith(expected_text(engine) + "\n")
    assert err.count("20 tokens in") == 2
    code, _, err = run(capsys, "chat", str(plain_bundle))
    error = "error: this model has no chat template and cannot chat; use generate --raw"
    assert (code, err.splitlines()[-1]) == (2, error)


@pytest.mark.parametrize("command", ["generate", "chat", "compare", "inspect", "bench", "bench memory"])
def test_help_names_the_bundle(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, *command.split(), "--help")
    assert code == 0
    assert "BUNDLE" in out


def test_a_reader_that_goes_away_is_no_noise(bundle: str) -> None:
    command = [sys.executable, "-m", "runtime", "generate", bundle, "Hello", "--no-speculation", "--threads", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before it has begun to write
        noise = process.stderr.read().decode()
    assert process.returncode == 141
    assert [line for line in noise.splitlines() if not line.startswith("note: ")] == []


@pytest.mark.parametrize(
    ("encoding", "line", "answered"),
    [
        ("utf-8", b"two \xff\xfe", False),
        ("ascii", "zwölf".encode(), True),
        ("latin-1", "zwölf".encode("latin-1"), True),
    ],
)
def test_a_line_that_is_no_text_does_not_end_a_chat(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bundle: str,
    encoding: str,
    line: bytes,
    answered: bool,
) -> None:
    asked: list[list[str]] = []
    encode_chat = Tokenizer.render_chat

    def noted(tokenizer: Tokenizer, messages: Sequence[Message], *rest: Any, **settings: Any) -> str:
        asked.append([message["content"] for message in messages if message["role"] == "user"])
        return encode_chat(tokenizer, messages, *rest, **settings)

    monkeypatch.setattr(Tokenizer, "render_chat", noted)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\n" + line + b"\nthree\n"), encoding=encoding))
    code, out, err = run(capsys, "chat", bundle, "--max-new-tokens", "4", "--no-speculation")
    assert code == 0
    assert asked[-1] == (["one", "zwölf", "three"] if answered else ["one", "three"])
    assert out.count("\n") == len(asked[-1])
    assert ("this line is not utf-8 text" in err) == (not answered)


@pytest.mark.parametrize("prompt", [[], ["-"]])
def test_nothing_on_standard_input_is_no_prompt(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, bundle: str, prompt: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    code, _, err = run(capsys, "generate", bundle, *prompt, "--max-new-tokens", "4")
    assert (code, "error: no prompt; pass one" in err) == ((0, False) if prompt else (2, True))
