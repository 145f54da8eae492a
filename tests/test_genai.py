"""Both ways with onnxruntime-genai: it runs our bundles, and we run what its builder writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from memory import Request
from runtime.decoding.stop import StopRule
from runtime.engine import Engine
from runtime.speculation.request import PLAIN, Speculation
from tests.conftest import TinyModels

PROMPT = "Once upon a time there was a"
TOKENS = 40

pytestmark = pytest.mark.slow


def _greedy(engine: Engine, tokens: list[int], speculation: Speculation) -> list[int]:
    stop = StopRule(eos=(), max_new_tokens=TOKENS)
    return [token for step in engine.steps(tokens, stop=stop, speculation=speculation) for token in step.tokens]


@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_bundle_int4"])
def test_genai_generates_the_same_greedy_tokens(bundle: str, request: pytest.FixtureRequest) -> None:
    genai: Any = pytest.importorskip("onnxruntime_genai")
    folder: Path = request.getfixturevalue(bundle)
    # genai runs the portable graph; our kernels round otherwise.
    with Engine.open(folder, Request(threads=1), kernels="portable") as engine:
        prompt = engine.encode(PROMPT)
        ours = _greedy(engine, prompt, PLAIN)
    model = genai.Model(str(folder))
    params = genai.GeneratorParams(model)
    params.set_search_options(do_sample=False, max_length=len(prompt) + TOKENS, min_length=len(prompt) + TOKENS)
    generator = genai.Generator(model, params)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    theirs = [int(token) for token in generator.get_sequence(0)][len(prompt) :]
    ends = [place for place, token in enumerate(ours) if token in engine.manifest.target.vocabulary.eos_token_ids]
    length = ends[0] if ends else TOKENS  # genai forbids end tokens below min_length
    assert length > 8
    assert ours[:length] == theirs[:length]


def test_what_genais_builder_writes_can_be_a_target(tiny_models: TinyModels, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_genai.models.builder")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu"]
    paths = ["-i", str(tiny_models.target), "-o", str(tmp_path / "genai"), "-c", str(tmp_path / "cache")]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    with Engine.open(tmp_path / "genai", Request(threads=1)) as engine:
        prompt = engine.encode("to be or not to be, to be or not to be, to be or not")
        plain = _greedy(engine, prompt, PLAIN)
        assert len(plain) == TOKENS
        assert _greedy(engine, prompt, Speculation("suffix")) == plain
