"""What a checkpoint's makers suggest is read as transformers reads it, told, and taken where it is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from export.manifest import PocketspecError
from memory import Request
from runtime.__main__ import main
from runtime.decoding.sampling import SamplingParams
from runtime.decoding.suggested_sampling import read_suggestion
from runtime.engine import Engine

QWEN3 = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [1, 2]}
CONFIGS: list[dict[str, Any]] = [
    QWEN3,
    {"do_sample": True, "top_k": 64, "top_p": 0.95},
    {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.05, "top_k": None},
    {"do_sample": True, "temperature": 1, "min_p": 0.1, "top_k": 0},
    {"repetition_penalty": 1.2},
    {"temperature": 0.6, "top_p": 0.9},
    {"eos_token_id": 2},
    {},
]


def suggestion_of(folder: Path, config: dict[str, Any]) -> SamplingParams | None:
    (folder / "generation_config.json").write_text(json.dumps(config))
    suggestion = read_suggestion(folder)
    return None if suggestion is None else suggestion.sampling


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_settings_mean_what_transformers_makes_of_them(tmp_path: Path, config: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    got = suggestion_of(tmp_path, config) or SamplingParams()
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path).to_dict()
    for name, value in transformers.GenerationConfig._get_default_generation_params().items():
        if theirs.get(name) is None:
            theirs[name] = value
    samples = theirs["do_sample"]
    assert got.temperature == (theirs["temperature"] if samples else 0)
    assert got.top_k == (theirs["top_k"] if samples else 0)
    assert got.top_p == (theirs["top_p"] if samples else 1)
    assert got.min_p == ((theirs.get("min_p") or 0) if samples else 0)
    assert got.repetition_penalty == theirs["repetition_penalty"]


def test_what_is_not_done_is_named(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({**QWEN3, "no_repeat_ngram_size": 3, "typical_p": 1.0}))
    suggestion = read_suggestion(tmp_path)
    assert suggestion is not None
    assert suggestion.left_out == ("no_repeat_ngram_size",)
    assert suggestion.describe() == "temperature 0.6, top_k 20, top_p 0.95"


def test_settings_of_another_builder_count_too(tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": {}, "search": {**QWEN3, "max_length": 9}}))
    suggestion = read_suggestion(tmp_path)
    assert suggestion is not None
    assert suggestion.sampling == SamplingParams(temperature=0.6, top_k=20, top_p=0.95)


@pytest.mark.parametrize("text", ["{", '{"do_sample": true, "temperature": "hot"}', '{"do_sample": true, "top_p": 7}'])
def test_broken_settings_are_one_line_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(PocketspecError, match=r"^[^\n]*generation_config\.json[^\n]*$"):
        read_suggestion(tmp_path)


@pytest.fixture
def suggesting(tmp_path: Path, random_bundle: Path) -> Path:
    """A bundle whose checkpoint suggests sampling."""
    bundle = tmp_path / "bundle"
    shutil.copytree(random_bundle, bundle)
    (bundle / "generation_config.json").write_text(json.dumps(QWEN3))
    return bundle


def run(capsys: pytest.CaptureFixture[str], bundle: Path, *arguments: str) -> tuple[int, str, str]:
    code = main(["generate", str(bundle), "hi", "--threads", "1", "--max-new-tokens", "12", *arguments])
    return code, *capsys.readouterr()


def test_a_suggestion_is_told_where_nothing_was_asked_for(
    capsys: pytest.CaptureFixture[str], suggesting: Path, random_bundle: Path
) -> None:
    code, text, err = run(capsys, suggesting)
    assert (code, "makers suggest temperature 0.6, top_k 20, top_p 0.95; answers are greedy" in err) == (0, True)
    for bundle, arguments in (
        (suggesting, ["--sampling", "greedy"]),
        (suggesting, ["--temperature", "0"]),
        (random_bundle, []),
    ):
        code, same, err = run(capsys, bundle, *arguments)
        assert (code, same, "suggest" in err) == (0, text, False)


def test_a_suggestion_is_taken_but_for_what_is_given_beside_it(
    capsys: pytest.CaptureFixture[str], suggesting: Path
) -> None:
    explicit = ["--temperature", "0.6", "--top-k", "20", "--top-p", "0.95", "--seed", "3"]
    expected = run(capsys, suggesting, *explicit)[:2]
    assert run(capsys, suggesting, "--sampling", "model", "--seed", "3")[:2] == expected
    hot = run(capsys, suggesting, "--sampling", "model", "--seed", "3", "--temperature", "9")[:2]
    assert hot == run(capsys, suggesting, *explicit, "--temperature", "9")[:2] != expected


def test_what_cannot_be_is_refused_or_told(
    capsys: pytest.CaptureFixture[str], suggesting: Path, random_bundle: Path
) -> None:
    code, _, err = run(capsys, suggesting, "--sampling", "greedy", "--temperature", "1")
    assert (code, "--sampling greedy and --temperature 1 contradict each other" in err) == (2, True)
    code, _, err = run(capsys, random_bundle, "--sampling", "model")
    assert (code, "suggest no sampling, so --sampling model is greedy" in err) == (0, True)


def test_an_engine_knows_what_is_suggested(suggesting: Path, engine: Engine) -> None:
    assert engine.suggested_sampling is None
    with Engine.open(suggesting, Request(threads=1)) as other:
        assert other.suggested_sampling == SamplingParams(temperature=0.6, top_k=20, top_p=0.95)
