"""A graph of one convolution and one recurrence over rows of tables, without any product of matrices.

So its bits depend on the states alone, and every number of rows must give the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx import parser

from export.bundle_files import sha256_of
from export.graph.functions import define_functions
from export.manifest import (
    ConvolutionShape,
    FileEntry,
    Level,
    Manifest,
    ModelShape,
    Quantization,
    RecurrenceShape,
    Role,
    Source,
    Vocabulary,
    write_manifest,
)
from tests.runtime.tiny_bundle import END, TEMPLATE, write_tokenizer

VOCAB, WIDTH, KEY_HEADS, HEADS, SIZE = 96, 3, 2, 4, 8
VALUES = VOCAB // HEADS
CHANNELS = 2 * KEY_HEADS * SIZE + VOCAB
UPDATE = HEADS + VOCAB + KEY_HEADS * SIZE


def hybrid_graph(delta: bool = True, noise: float = 0.0) -> ir.Model:
    """The graph with its weights; ``delta`` says which rule its recurrence follows.

    What its recurrence gives are the logits.
    """
    beta = "beta" if delta else '""'
    queries = KEY_HEADS * SIZE
    text = f"""<ir_version: 10, opset_import: ["" : 21, "pocketspec" : 1]>
hybrid (int64[1, rows] input_ids, int64[1, total] attention_mask, float[1, slots, {CHANNELS}] past_conv,
        float[1, {HEADS}, {SIZE}, {VALUES}] past_recurrent, float[1, held, {UPDATE}] past_updates, int64[2] replay,
        float[{VOCAB}, {CHANNELS}] table, float[{VOCAB}, {HEADS}] decays, float[{VOCAB}, {HEADS}] rates,
        float[{WIDTH}, {CHANNELS}] weight, float[{CHANNELS}] bias)
    => (float[1, rows, {VOCAB}] logits, float[1, slots, {CHANNELS}] present_conv,
        float[1, {HEADS}, {SIZE}, {VALUES}] present_recurrent, float[1, held, {UPDATE}] present_updates)
    <int64[3] parts = {{{queries}, {queries}, {VOCAB}}}> {{
    total_length = Shape <start = 1, end = 2> (attention_mask)
    x = Gather (table, input_ids)
    decay = Gather (decays, input_ids)
    beta = Gather (rates, input_ids)
    y, present_conv = pocketspec.ShortConvolution <width = {WIDTH}, silu = 1>
        (x, weight, bias, past_conv, total_length)
    q, k, v = Split <axis = 2> (y, parts)
    logits, present_recurrent, present_updates = pocketspec.LinearRecurrence
        <key_heads = {KEY_HEADS}, scale = 0.35, epsilon = 1e-6>
        (q, k, v, decay, {beta}, past_recurrent, past_updates, replay)
}}"""
    model = ir.serde.deserialize_model(parser.parse_model(text))
    rng, other = np.random.default_rng(0), np.random.default_rng(1)
    for value in list(model.graph.inputs)[-5:]:
        sizes = [int(size) for size in value.shape or ()]
        array = (rng.standard_normal(sizes) + noise * other.standard_normal(sizes)).astype(np.float32)
        array = -np.abs(array) / 4 if value.name == "decays" else np.abs(array) / 2 if value.name == "rates" else array
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
        model.graph.inputs.remove(value)
    for names in (model.graph.inputs, model.graph.outputs):
        for value in names:
            if str(value.name).partition("_")[2] in ("conv", "recurrent", "updates"):
                value.name = f"{value.name}.0"
    return model


def tables_of(delta: bool) -> dict[str, np.ndarray]:
    """The numbers of the graph by their names."""
    initializers = hybrid_graph(delta).graph.initializers
    names = ("table", "decays", "rates", "weight", "bias")
    return {name: initializers[name].const_value.numpy() for name in names if name in initializers}


def write_hybrid_graph(path: Path, delta: bool = True) -> Path:
    """The graph with the definitions of its operators, for ONNX Runtime alone."""
    model = hybrid_graph(delta)
    define_functions(model)
    ir.save(model, path)
    return path


def write_hybrid_bundle(folder: Path) -> Path:
    """A bundle of such a target and of a drafter, "near", that differs from it a little; it has a tokenizer."""
    (folder / "drafters" / "near").mkdir(parents=True)
    write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    levels = [
        _write_level(folder, "hybrid", "target", ".", 0.0),
        _write_level(folder, "near", "drafter", "drafters/near", 0.3),
    ]
    files = {
        str(path.relative_to(folder)): FileEntry(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_manifest(folder, Manifest("hybrid", tuple(levels), files, {"pocketspec": "test"}))
    return folder


def _write_level(folder: Path, name: str, role: Role, place: str, noise: float) -> Level:
    model = hybrid_graph(noise=noise)
    define_functions(model)
    path = folder / place / "model.onnx"
    ir.save(model, path)
    shape = ModelShape(
        layers=1,
        hidden_size=CHANNELS,
        mlp_size=CHANNELS,
        heads=HEADS,
        kv_heads=HEADS,
        head_size=SIZE,
        vocab_size=VOCAB,
        positions=512,
        attention_layers=0,
        convolutions=ConvolutionShape(1, CHANNELS, WIDTH),
        recurrences=RecurrenceShape(1, HEADS, KEY_HEADS, SIZE, VALUES),
    )
    return Level(
        name=name,
        role=role,
        folder=place,
        architecture="hybrid",
        source=Source("tests/hybrid", kind="random-weights"),
        shape=shape,
        vocabulary=Vocabulary(VOCAB, "0" * 64, (END,)),
        quantization=Quantization("fp32"),
        graphs={"fp32": "model.onnx"},
        weight_bytes=path.stat().st_size,
        tree=False,
    )
