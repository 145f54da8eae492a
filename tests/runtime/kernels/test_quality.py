"""Perplexity on text the models were made for: our kernels against ONNX Runtime's own, on the same weights."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.bundle import export_bundle
from export.perplexity import perplexity, surprises
from export.request import ExportRequest
from memory import Request
from runtime.engine import Engine
from runtime.kernels.library import library_path
from runtime.kernels.selection import Wanted

pytestmark = pytest.mark.slow

WINDOW, ROWS, TOKENS = 192, 16, 6000
# Either kernel rounds the same activations to eight bits, in another order of sums.
TOLERANCE = 1.005


def texts_for(model: str, shared_data: Path) -> Iterator[str]:
    if model != "demo":
        yield from (shared_data / "eval" / "tinystories.txt").read_text(encoding="utf-8").split("<|endoftext|>")
        return
    with lzma.open(shared_data / "text" / "instruct-valid.jsonl.xz", "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["response"]


def perplexity_of(bundle: Path, kernels: Wanted, texts: Iterator[str]) -> float:
    """Per token, over windows of text that each begin with an empty cache."""
    request = Request(context=WINDOW + ROWS, drafters=(), nodes=ROWS - 1)
    found: list[float] = []
    with Engine.open(bundle, request, kernels=kernels) as engine:
        assert engine.target.kernels.name == kernels
        for text in texts:
            tokens = engine.tokenizer.encode(text.strip())[:WINDOW]
            engine.target.cache.rollback(0)
            for first in range(0, len(tokens) - 1, ROWS):
                rows = tokens[first : min(first + ROWS, len(tokens) - 1)]
                following = tokens[first + 1 : first + 1 + len(rows)]
                found += surprises(engine.target.forward(rows).logits, following)
            if len(found) >= TOKENS:
                break
    return perplexity(found)


@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("model", ["stories260k", "bitllama-3m", "demo"])
def test_native_kernels_lose_no_quality(model: str, block: int, shared_data: Path, tmp_path: Path) -> None:
    if not library_path().is_file():
        pytest.skip("the native kernels are not built")
    target = model if model == "demo" else str(shared_data / "models" / model)
    bundle = export_bundle(ExportRequest(target, tmp_path / "bundle", drafters=(), block_size=block))
    portable, native = (
        perplexity_of(bundle, kernels, texts_for(model, shared_data)) for kernels in ("portable", "native")
    )
    print(f"\n{model}, int4 in blocks of {block}: portable {portable:.4f}, native {native:.4f}")
    assert native <= TOLERANCE * portable
