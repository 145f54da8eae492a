"""A check passes what is right, in any precision, and fails what is wrong; its numbers mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM

from export import level
from export.graph.recipe import LoweredGraph
from export.graph.trace import GraphOptions
from export.manifest import ModelShape
from export.perplexity import perplexity, surprises
from export.quantization.quantize import QUANTIZERS
from export.sources.checkpoint import Checkpoint
from export.sources.model_shape import shape_of
from export.sources.targets import load_config
from export.sources.tensor_source import FloatArray
from export.validation import check
from export.validation.check import CheckError, Passage, check_level, compare, read_passage
from export.validation.limits import MAX_LOGITS_BYTES, MAX_TOKENS, MIN_TOKENS, count_tokens
from export.validation.partitioned_session import PiecedGraph
from export.writer.weights import write_weights
from tests.conftest import TinyModels

QWEN = ModelShape(28, 1536, 8960, 12, 2, 128, 151936, 32768)
TOKENS = tuple(np.random.default_rng(5).integers(0, 256, 40).tolist())


class Written:
    """The tiny drafter as a graph on disk, with what a check needs to know of it."""

    def __init__(self, checkpoint: Path, folder: Path, weights: Any, block_size: int = 32) -> None:
        self.config, self.source = load_config(checkpoint), Checkpoint(checkpoint)
        self.shape = shape_of(self.config)
        # The graph of the bundle of this model and precision, which ``lowered_once`` keeps.
        self.lowered: LoweredGraph = level.lower(self.config, GraphOptions(weights, block_size, positions=512))
        self.graph = folder / "model.onnx"
        write_weights(self.lowered, self.source, folder, QUANTIZERS["rtn"])

    def check(self, **changes: Any) -> check.Check:
        arguments = {
            "graph": self.graph,
            "lowered": self.lowered,
            "config": self.config,
            "source": self.source,
            "passage": Passage("some bytes", TOKENS),
        }
        return check_level(**{**arguments, **changes})


@pytest.fixture(scope="module")
def exact(lowered_once: None, tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tiny_models.drafter, tmp_path_factory.mktemp("fp32"), "fp32")


@pytest.fixture(scope="module")
def rounded(lowered_once: None, tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tiny_models.drafter, tmp_path_factory.mktemp("int4"), "int4", 64)


def test_an_exact_export_equals_the_model(exact: Written, tiny_models: TinyModels) -> None:
    result = exact.check()
    assert result.tokens == 40
    assert result.max_difference < 1e-4
    assert result.argmax_agreement == 1.0
    model = AutoModelForCausalLM.from_pretrained(tiny_models.drafter, dtype=torch.float32)
    ids = torch.tensor([TOKENS])
    with torch.no_grad():
        loss = float(model(ids, labels=ids).loss)
    assert result.reference_perplexity == pytest.approx(np.exp(loss), rel=1e-4)
    assert result.perplexity == pytest.approx(np.exp(loss), rel=1e-4)


def test_a_rounded_export_passes_and_its_loss_is_reported(rounded: Written) -> None:
    result = rounded.check()
    assert result.max_difference > 0.05
    assert result.argmax_agreement < 1.0
    assert result.perplexity != result.reference_perplexity


@pytest.mark.parametrize("size", [1, 20_000])
def test_the_size_of_pieces_changes_nothing(exact: Written, size: int) -> None:
    whole = PiecedGraph(exact.graph, 1 << 30)
    assert len(whole.pieces) == 1
    pieces = PiecedGraph(exact.graph, size)
    assert len(pieces.pieces) > 3
    left, right = check.graph_logits(whole, TOKENS), check.graph_logits(pieces, TOKENS)
    assert np.abs(left - right).max() <= 1e-5 * np.abs(left).max()


def _scaled_epsilon(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "epsilon":
            attribute.f *= 1e4


def _other_scale(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "GroupQueryAttention" and attribute.name == "scale":
            attribute.f *= 1.1


def _swapped_key_and_value(node: onnx.NodeProto) -> None:
    if node.op_type == "GroupQueryAttention":
        node.input[1], node.input[2] = node.input[2], node.input[1]


def _no_rotation(node: onnx.NodeProto) -> None:
    if node.op_type == "RotaryEmbedding":
        node.op_type, node.domain = "Identity", ""
        del node.input[1:], node.attribute[:]


@pytest.mark.parametrize("damage", [_scaled_epsilon, _other_scale, _swapped_key_and_value, _no_rotation])
@pytest.mark.parametrize("weights", ["exact", "rounded"])
def test_a_wrong_graph_fails(
    request: pytest.FixtureRequest, tmp_path: Path, weights: str, damage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: Written = request.getfixturevalue(weights)
    proto = onnx.load(written.graph, load_external_data=False)
    before = proto.SerializeToString()
    for node in proto.graph.node:
        damage(node)
    assert proto.SerializeToString() != before
    broken = tmp_path / "model.onnx"
    broken.write_bytes(proto.SerializeToString())
    (tmp_path / "model.onnx.data").write_bytes(written.graph.with_name("model.onnx.data").read_bytes())
    with pytest.raises(CheckError, match=r"the exported llama graph is wrong: its logits are off by .* of the largest"):
        written.check(graph=broken)


class Shifted:
    """A source whose projections are one row further than they should be."""

    def __init__(self, source: Any) -> None:
        self.names, self.shape, self._read = source.names, source.shape, source.read

    def read(self, name: str, first: int = 0, last: int | None = None) -> FloatArray:
        rows: FloatArray = self._read(name)
        return np.roll(rows, 1, axis=0)[first:last] if "q_proj" in name else rows[first:last]


def test_wrong_weights_fail_in_any_precision(exact: Written, rounded: Written) -> None:
    with pytest.raises(CheckError, match=r"q_proj.weight was written to model.onnx with a relative error of"):
        rounded.check(source=Shifted(rounded.source))
    with pytest.raises(CheckError, match=r"q_proj.weight was written to model.onnx with a relative error of"):
        exact.check(source=Shifted(exact.source))


def test_perplexity_of_even_odds_is_the_number_of_tokens() -> None:
    logits = np.full((4, 50), 3.0, np.float32)
    assert perplexity(surprises(logits, [2, 3, 4])) == pytest.approx(50)


def test_compare_counts_rows_and_averages_logits() -> None:
    reference = np.eye(4, dtype=np.float32)
    exported = reference.copy()
    exported[0, 2] = 2.0
    result = compare("text", [0, 1, 2, 3], exported, reference)
    assert (result.max_difference, result.argmax_agreement) == (2.0, 0.75)
    assert result.mean_difference == pytest.approx(2 / 16)


def test_a_check_of_a_large_model_is_bounded() -> None:
    assert count_tokens(QWEN, 10_000) == 220
    assert QWEN.vocab_size * 4 * count_tokens(QWEN, 10_000) <= MAX_LOGITS_BYTES
    assert count_tokens(replace(QWEN, vocab_size=512), 10_000) == MAX_TOKENS
    assert count_tokens(replace(QWEN, vocab_size=512, positions=64), 10_000) == 64
    assert count_tokens(replace(QWEN, layers=10_000), 10_000) == MIN_TOKENS


def test_the_passage_is_the_text_asked_for(tiny_models: TinyModels, tmp_path: Path) -> None:
    shape = shape_of(load_config(tiny_models.target))
    assert "Carroll" in read_passage(tiny_models.target, shape).name
    text = tmp_path / "mine.txt"
    text.write_text("It is a truth universally acknowledged", "utf-8")
    passage = read_passage(tiny_models.target, shape, text)
    assert (passage.name, len(passage.tokens)) == ("mine.txt", 38)
    assert read_passage(None, shape).name == "random tokens"
    text.write_text("short", "utf-8")
    with pytest.raises(CheckError, match=r"mine.txt has 5 tokens, at least 16 are needed"):
        read_passage(tiny_models.target, shape, text)
    text.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(CheckError, match=r"cannot read the check text .*mine.txt"):
        read_passage(tiny_models.target, shape, text)


@pytest.mark.parametrize("name", ["stories260k", "bitllama-1m"])
@pytest.mark.slow
def test_real_models_pass(shared_data: Path, tmp_path: Path, name: str) -> None:
    folder = shared_data / "models" / name
    for weights in ("fp32", "int4", "int8"):
        (tmp_path / weights).mkdir()
        written = Written(folder, tmp_path / weights, weights)
        result = written.check(passage=read_passage(folder, written.shape))
        assert result.argmax_agreement > (0.999 if weights == "fp32" else 0.6)
