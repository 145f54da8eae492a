"""Calibration: moments are those of the model's own activations, and weights made with them have better outputs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from export.manifest import PocketspecError
from export.quantization import calibration as calibrate
from export.quantization.blocks import QuantizeError
from export.quantization.calibration import CalibrationError, WeightImportance, compensation, read_tokens
from export.quantization.quantize import QUANTIZERS
from export.sources.checkpoint import Checkpoint
from export.sources.random_weights import RandomWeights
from export.sources.tensor_source import FloatArray
from tests.export.quantization.stored import weights_of
from tests.places import SHARED

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "gemma3": Gemma3TextConfig(
        **SIZES, sliding_window=4, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
}
TOKENS: npt.NDArray[np.int64] = np.random.default_rng(0).integers(0, 64, (3, 12))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def inputs_of_linears(model: Any, tokens: npt.NDArray[np.int64]) -> dict[str, FloatArray]:
    """What enters each linear layer of a model, float32 ``[tokens, columns]``, by the name of its weight."""
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            keep = seen.setdefault(f"{name}.weight", [])
            module.register_forward_pre_hook(
                lambda _, args, keep=keep: keep.append(args[0].reshape(-1, args[0].shape[-1]))
            )
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(tokens), use_cache=False)
    return {name: np.asarray(torch.cat(parts).numpy()) for name, parts in seen.items()}


def with_weights(config: Any, source: Any) -> Any:
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    model.load_state_dict({name: torch.from_numpy(source.read(name)) for name in source.names()}, strict=False)
    return model


def correlated(rows: int, columns: int, seed: int = 0) -> FloatArray:
    """Activations with few directions and some noise."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(9).standard_normal((columns // 4, columns))
    return (rng.standard_normal((rows, columns // 4)) @ mix + 0.3 * rng.standard_normal((rows, columns))).astype(
        np.float32
    )


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("window", [16, 1024])
def test_moments_are_those_of_the_models_own_activations(
    family: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "WINDOW", window)
    config = CONFIGS[family]
    source = RandomWeights(config)
    inputs = inputs_of_linears(with_weights(config, source), TOKENS)
    squares, factors = (WeightImportance(config, source, TOKENS, method) for method in ("search", "gptq"))
    assert set(squares) == set(factors) == set(inputs) - {"lm_head.weight"}
    assert len(squares) == 7 * config.num_hidden_layers
    for name in squares:
        x = inputs[name].astype(np.float64)
        np.testing.assert_allclose(squares[name], np.square(x).mean(axis=0), rtol=1e-4, atol=1e-6)
        moments = np.zeros((x.shape[1], min(window, x.shape[1])), np.float32)
        for start in range(0, x.shape[1], window):
            part = x[:, start : start + window]
            moments[start : start + window, : part.shape[1]] = part.T @ part / len(x)
        np.testing.assert_allclose(factors[name], compensation(moments), rtol=2e-2, atol=2e-2 * factors[name].max())


def test_layers_may_be_asked_for_in_any_order() -> None:
    source = RandomWeights(CONFIGS["llama"])
    calibration = WeightImportance(CONFIGS["llama"], source, TOKENS, "search")
    names = ["model.layers.2.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight"]
    late, early = (calibration[name] for name in names)
    np.testing.assert_array_equal(late, calibration[names[0]])
    np.testing.assert_array_equal(early, calibration[names[1]])
    assert calibration.get("model.embed_tokens.weight") is None


@pytest.mark.parametrize(("columns", "window"), [(32, 32), (40, 16)])
def test_factors_are_the_upper_root_of_the_inverse(columns: int, window: int) -> None:
    x = correlated(500, columns)
    moments = np.zeros((columns, window), np.float32)
    for start in range(0, columns, window):
        part = x[:, start : start + window]
        moments[start : start + window, : part.shape[1]] = part.T @ part / len(x)
    factors = compensation(moments)
    for start in range(0, columns, window):
        size = min(window, columns - start)
        square = moments[start : start + size, :size].astype(np.float64)
        square += 0.01 * np.diag(square).mean() * np.eye(size)
        upper = factors[start : start + size, :size].astype(np.float64)
        np.testing.assert_array_equal(upper, np.triu(upper))
        np.testing.assert_allclose(upper.T @ upper @ square, np.eye(size), atol=1e-3)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    factors = compensation(np.zeros((32, 32), np.float32))
    rows = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
    for name in ("search", "gptq"):
        importance = factors if name == "gptq" else np.zeros(32, np.float32)
        quantized = QUANTIZERS[name].quantize(rows, 4, 32, True, importance)
        assert quantized.error[0] < 0.01 * quantized.error[1]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("columns", "window"), [(128, 128), (80, 80), (128, 64)])
def test_compensation_lowers_the_error_of_outputs(bits: int, symmetric: bool, columns: int, window: int) -> None:
    rows = np.random.default_rng(1).standard_normal((64, columns)).astype(np.float32)
    x, held_out = correlated(2000, columns), correlated(500, columns, seed=2)
    moments = np.concatenate(
        [x[:, start : start + window].T @ x[:, start : start + window] for start in range(0, columns, window)]
    )
    error, outputs = {}, {}
    for name in ("search", "gptq"):
        importance = compensation(moments / len(x)) if name == "gptq" else None
        quantized = QUANTIZERS[name].quantize(rows, bits, 32, symmetric, importance)
        found = weights_of(quantized, bits, columns)
        assert quantized.error[0] == pytest.approx(float(np.square(found - rows).sum()), rel=1e-3)
        error[name] = quantized.error[0]
        outputs[name] = float(np.square(held_out @ (found - rows).T).sum())
    assert outputs["gptq"] < 0.6 * outputs["search"]
    assert error["gptq"] > error["search"]


def test_scales_follow_the_columns_that_matter_even_where_nothing_can_be_compensated() -> None:
    rows = np.random.default_rng(5).standard_normal((64, 128)).astype(np.float32)
    squares = np.exp(np.random.default_rng(6).uniform(-4, 4, 128)).astype(np.float32)  # uncorrelated inputs
    outputs = {}
    for name, importance in (("search", None), ("gptq", compensation(np.diag(squares)))):
        quantized = QUANTIZERS[name].quantize(rows, 4, 32, True, importance)
        outputs[name] = float((np.square(weights_of(quantized, 4, 128) - rows) * squares).sum())
    assert outputs["gptq"] < 0.8 * outputs["search"]


def test_compensation_keeps_ternary_weights_exactly() -> None:
    rng = np.random.default_rng(3)
    sizes = (rng.random((16, 4)) + 0.1).astype(np.float16)  # scales are rounded to float16's values
    rows = (rng.integers(-1, 2, (16, 128)) * np.repeat(sizes, 32, axis=1)).astype(np.float32)
    x = correlated(500, 128)
    quantized = QUANTIZERS["gptq"].quantize(rows, 4, 32, True, compensation(x.T @ x / 500))
    np.testing.assert_array_equal(weights_of(quantized, 4, 128), rows)


def test_without_factors_gptq_is_the_search() -> None:
    rows = np.random.default_rng(4).standard_normal((8, 64)).astype(np.float32)
    codes = [QUANTIZERS[name].quantize(rows, 4, 32, False).codes for name in ("gptq", "search")]
    np.testing.assert_array_equal(*codes)


@pytest.mark.parametrize(("method", "gain"), [("search", 0.98), ("gptq", 0.8)])
def test_outputs_of_a_real_model_on_other_text_gain(method: str, gain: float) -> None:
    folder = SHARED / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip("needs the checkpoint stories260k in ../shared")
    text = SHARED / "eval" / "tinystories.txt"
    tokens = read_tokens(folder / "tokenizer.json", text, 512, rows=16)
    config, source = AutoConfig.from_pretrained(folder), Checkpoint(folder)
    calibration = WeightImportance(config, source, tokens[::2], method)
    held_out = inputs_of_linears(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tokens[1::2])
    total = {"plain": 0.0, "calibrated": 0.0}
    for name in calibration:
        weight, x = source.read(name), held_out[name]
        scale = np.square(x @ weight.T).sum()
        for kind in total:
            chosen = QUANTIZERS[method] if kind == "calibrated" else QUANTIZERS["search"]
            quantized = chosen.quantize(weight, 4, 32, True, calibration[name] if kind == "calibrated" else None)
            found = weights_of(quantized, 4, weight.shape[1])
            total[kind] += float(np.square(x @ (found - weight).T).sum() / scale)
    assert total["calibrated"] < gain * total["plain"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    made = Tokenizer(WordLevel({str(i): i for i in range(200)}, unk_token="0"))
    made.pre_tokenizer = Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_text_is_read_from_its_beginning_to_its_end(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "text").write_text(" ".join(map(str, range(200))))
    tokens = read_tokens(tokenizer, tmp_path / "text", positions=16, rows=3)
    assert tokens.dtype == np.int64
    first_numbers = (0, 136)
    assert tokens.tolist() == [list(range(first, first + 16)) for first in first_numbers]


def test_a_short_text_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "text").write_text("1 2 3")
    with pytest.raises(
        CalibrationError, match="text gives 3 tokens in a row, calibration needs 256; give a longer text"
    ):
        read_tokens(tokenizer, tmp_path / "text", positions=512)
    assert issubclass(CalibrationError, PocketspecError)


def test_a_method_without_calibration_is_refused() -> None:
    with pytest.raises(CalibrationError, match="'rtn' takes no calibration; use gptq or search, or drop the text"):
        WeightImportance(CONFIGS["llama"], RandomWeights(CONFIGS["llama"]), TOKENS, "rtn")


def test_blocks_across_windows_are_refused() -> None:
    with pytest.raises(
        QuantizeError, match="block size 64 does not divide gptq's windows of 32 columns; use 32 or 128"
    ):
        QUANTIZERS["gptq"].quantize(np.ones((2, 64), np.float32), 4, 64, True, np.ones((64, 32), np.float32))
