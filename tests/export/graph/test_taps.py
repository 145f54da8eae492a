"""Taps give the hidden rows of the model's own code, and leave every bit of the logits as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from export.graph.native.build import pack_native, write_native
from export.graph.trace import GraphOptions
from export.manifest import PocketspecError
from export.quantization.quantize import QUANTIZERS
from export.sources.checkpoint import Checkpoint
from export.sources.checkpoint_mapping import load_tensors
from export.sources.model_shape import ArchitectureError
from export.sources.targets import load_config
from export.writer.weights import write_weights
from runtime.kernels.backends import PORTABLE
from runtime.kernels.library import open_library
from runtime.models.exact_widths import even_widths
from runtime.models.ort_model import OrtModel, open_session
from tests.conftest import TinyModels

TAPS = (0, 1, 2)
TOKENS = [7, 3, 200, 41, 41, 5, 90, 12]


def write(lower: Any, models: TinyModels, folder: Path, taps: tuple[int, ...], weights: Any) -> Path:
    """Graph and weights of the tiny target in ``folder``."""
    config = load_config(models.target)
    lowered = lower(config, GraphOptions(weights), taps, None)
    folder.mkdir()
    write_weights(lowered, load_tensors(config, Checkpoint(models.target))[1], folder, QUANTIZERS["rtn"])
    return folder


def run(path: Path, kernels: Any, hidden_rows: int) -> tuple[Any, Any]:
    """Logits of a prompt's end, several rows and a single one; and the hidden rows, if they are kept."""
    model = OrtModel(open_session(path, 1, kernels), 40, 4, 4, even_widths(4), kernels=kernels, hidden_rows=hidden_rows)
    model.prefill(TOKENS[:3])
    logits = [model.forward(TOKENS[3:7]).logits.copy(), model.forward(TOKENS[7:]).logits.copy()]
    hidden = model.cache.hidden
    return np.concatenate(logits), None if hidden is None else hidden.rows(0, hidden.end)


def test_rows_are_those_of_the_models_own_code(lowered_once: Any, tiny_models: TinyModels, tmp_path: Path) -> None:
    folder = write(lowered_once, tiny_models, tmp_path / "tapped", TAPS, "fp32")
    logits, rows = run(folder / "model.onnx", PORTABLE, 16)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_models.target, dtype=torch.float32)
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([TOKENS]), output_hidden_states=True)
    expected = [states[0].numpy() for states in out.hidden_states]
    first, second, last = np.split(rows, 3, 1)
    np.testing.assert_allclose(first, expected[0], atol=1e-5)
    np.testing.assert_allclose(second, expected[1], atol=1e-5)
    np.testing.assert_allclose(model.model.norm(torch.from_numpy(last)).detach().numpy(), expected[2], atol=1e-5)
    np.testing.assert_allclose(logits, out.logits[0, 3:].numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["portable", "native"])
def test_no_bit_of_the_logits_changes(kind: str, lowered_once: Any, tiny_models: TinyModels, tmp_path: Path) -> None:
    found = []
    for name, taps in (("plain", ()), ("tapped", TAPS)):
        folder = write(lowered_once, tiny_models, tmp_path / name, taps, "int4")
        path, kernels = folder / "model.onnx", PORTABLE
        if kind == "native":
            path, kernels = folder / "native.onnx", _native(folder)
        found += [run(path, kernels, rows) for rows in ((0, 16) if taps else (0,))]
    for logits, _ in found[1:]:
        np.testing.assert_array_equal(logits.view(np.uint32), found[0][0].view(np.uint32))
    assert [rows is None for _, rows in found] == [True, True, False]


def _native(folder: Path) -> Any:
    from runtime.kernels.backends import Native

    try:
        library = open_library()
    except PocketspecError as error:
        pytest.skip(str(error))
    assert write_native(folder) is not None
    pack_native(folder)
    return Native(library, folder)


def test_a_tap_behind_the_last_layer_is_refused(lowered_once: Any, tiny_models: TinyModels) -> None:
    with pytest.raises(ArchitectureError, match="its layers are not where drafters that read hidden rows look"):
        lowered_once(load_config(tiny_models.target), GraphOptions("fp32"), (3,), None)
