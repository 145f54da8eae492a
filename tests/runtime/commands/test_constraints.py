"""Constraints from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.__main__ import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        code = main([*map(str, arguments), "--threads", "1"])
    except SystemExit as end:  # argparse
        code = int(end.code or 0)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_each_option_keeps_the_answer_to_it(
    capsys: pytest.CaptureFixture[str], random_bundle: Path, tmp_path: Path
) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "list.lark"
    schema.write_text(
        '{"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": false}'
    )
    grammar.write_text('start: "yes" | "no"')
    for option, answers in (
        (("--json-schema", schema), {'{"a": 1}', '{"a": 2}'}),
        (("--regex", "[ab]{3}"), {x + y + z for x in "ab" for y in "ab" for z in "ab"}),
        (("--grammar", grammar), {"yes", "no"}),
    ):
        code, out, err = run(capsys, "generate", random_bundle, "Hello", *option)
        assert (code, out in answers) == (0, True), (out, err)
    code, out, err = run(capsys, "generate", random_bundle, "Hello", "--json-object", "--max-new-tokens", "9", "--json")
    assert code == 0
    assert json.loads(out)["text"].startswith("{")
    if json.loads(out)["finish"] == "length":
        assert "cut off" in err


def test_refusals_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], random_bundle: Path, tmp_path: Path
) -> None:
    bad, latin = tmp_path / "bad.json", tmp_path / "latin.lark"
    bad.write_text('{"properties": {"a": {"type": "objekt"}}}')
    latin.write_bytes(b'start: "\xe9"')
    for option, why in (
        (("--json-schema", bad), "at #/properties/a: Invalid type: objekt"),
        (("--json-schema", tmp_path / "none.json"), "none.json"),
        (("--grammar", latin), "not UTF-8"),
        (("--regex", "("), "unclosed group"),
        (("--regex", ""), "is empty"),
    ):
        code, out, err = run(capsys, "generate", random_bundle, "Hello", *option, "--sampling", "greedy")
        assert (code, out) == (2, "")
        assert why in err
        assert [line for line in err.splitlines() if not line.startswith("note:")] == err.splitlines()[-1:]
    code, _, err = run(capsys, "generate", random_bundle, "Hello", "--regex", "a", "--json-object")
    assert code == 2
    assert "not allowed with" in err


def test_bench_compares_under_a_constraint(capsys: pytest.CaptureFixture[str], random_bundle: Path) -> None:
    settings = ("--compare", "plain,auto", "--tokens", "16", "--repeat", "1", "--count", "1", "--regex", "abcdef[xy]+z")
    code, out, err = run(capsys, "bench", random_bundle, *settings)
    assert code == 0, err
    assert "auto" in out
    code, _, err = run(capsys, "bench", random_bundle, *settings, "--synthetic-acceptance", "0.8")
    assert code == 2
    assert "--synthetic-acceptance" in err
