"""Options stand where they like; what is no option though it begins with a dash is a text."""

from __future__ import annotations

import argparse

import pytest

from memory.command_line import Parser
from runtime.__main__ import parse


def prompt_of(*words: str) -> tuple[str | None, int | None, bool]:
    options = parse(["generate", *words])
    assert str(options.bundle) == "B"
    return options.prompt, options.max_new_tokens, options.raw


@pytest.mark.parametrize(
    "prompt", ["Hello", "- item one", "-5 + 3 = ?", "-5", "-.5", "-", "--stats are what?", "", "-a\n-b", "--raw 4"]
)
def test_a_prompt_may_stand_anywhere(prompt: str) -> None:
    option, flag = ["--max-new-tokens", "4"], ["--raw"]
    assert prompt_of("B", prompt) == (prompt, None, False)
    for words in (
        ["B", prompt, *option, *flag],
        ["B", *option, *flag, prompt],
        ["B", *option, prompt, *flag],
        [*option, "B", prompt, *flag],
        [*flag, *option, "B", prompt],
        ["--max-new-tokens=4", "B", *flag, "--", prompt],
        [*flag, *option, "--", "B", prompt],
    ):
        assert prompt_of(*words) == (prompt, 4, True), words


@pytest.mark.parametrize("prompt", ["-hello", "--raw", "--unknown", "-x", "--stats", "--"])
def test_behind_two_dashes_everything_is_a_prompt(prompt: str) -> None:
    assert prompt_of("B", "--max-new-tokens", "4", "--", prompt) == (prompt, 4, False)
    assert prompt_of("--raw", "--", "B", prompt) == (prompt, None, True)


def test_values_of_options_may_begin_with_a_dash() -> None:
    options = parse(["generate", "B", "--stop", "- ", "--stop", "-x", "--stop=--", "--system", "-", "Hello"])
    assert (options.stop, options.system, options.prompt) == (["- ", "-x", "--"], "-", "Hello")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generate", "B", "-hello"], "unrecognized arguments: -hello; text that begins with a dash stands behind --"),
        (["generate", "B", "--hello"], "unrecognized arguments: --hello; text that begins with"),
        (["inspect", "B", "-hello"], "unrecognized arguments: -hello; python -m runtime inspect --help"),
        (["inspect", "B", "C"], "unrecognized arguments: C;"),
        (["generate", "B", "one", "two"], "unrecognized arguments: two;"),
        (["generate", "B", "x", "--system"], "argument --system: expected one argument"),
        (["generate", "B", "--system", "--raw", "x"], "argument --system: expected one argument"),
        (["generate", "--raw"], "the following arguments are required: BUNDLE"),
        (["compare", "B", "--raw"], "the following arguments are required: PROMPT"),
    ],
)
def test_what_is_neither_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert told in line


def test_a_command_of_two_words_is_not_its_first_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(["bench", "B"]).command == "bench"
    assert parse(["bench", "./memory"]).command == "bench"
    options = parse(["bench", "memory", "B", "--plan", "-"])
    assert (options.command, str(options.bundle)) == ("bench memory", "B")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "now"),
    [
        (["converse", "B", "--prompts", "F"], "bench conversation"),
        (["probe", "B", "--plan", "-"], "bench memory"),
    ],
)
def test_a_command_that_moved_is_found_and_says_where(
    capsys: pytest.CaptureFixture[str], words: list[str], now: str
) -> None:
    assert parse(words).command == now
    line = f"note: python -m runtime {words[0]} is python -m runtime {now} now\n"
    assert capsys.readouterr() == ("", line)


def test_options_without_values_take_none() -> None:
    parser = Parser(prog="x", allow_abbrev=False)
    parser.add_argument("bundle")
    parser.add_argument("text", nargs="?")
    parser.add_argument("--flag", action="store_true")
    parser.add_argument("--number", type=int)
    assert parser.parse_args(["--flag", "B", "--number", "-3", "-7"]) == argparse.Namespace(
        bundle="B", text="-7", flag=True, number=-3
    )
