"""Lowered graphs with weights from a Hugging Face model, filled straight from the recipes, and run step by step."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
import transformers

from export.graph.recipe import AliasRecipe, ConstantRecipe, LoweredGraph, MatrixRecipe, PlainRecipe
from export.graph.trace import GraphOptions, lower

CAPACITY = 40
MASKED = -1e30


def make_model(config: transformers.PretrainedConfig, seed: int = 0) -> Any:
    """A model with random weights; norms and biases are random too, so that none of them can be mixed up."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.12))
            if parameter.ndim == 1:
                parameter.add_(0.7)
    return model.eval()


def fill(graph: LoweredGraph, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gives every initializer its value; returns ``state`` with stored tensors as they come back from storage."""
    values: dict[str, np.ndarray] = {}
    stored = dict(state)
    for recipe in graph.recipes:
        if isinstance(recipe, ConstantRecipe):
            values[recipe.name] = recipe.value
        elif isinstance(recipe, PlainRecipe):
            parts = [state[name] for name in recipe.sources]
            stacked = (np.concatenate(parts) if recipe.shape else parts[0]) + np.float32(recipe.offset)
            stacked = stacked.T if recipe.transpose else recipe.order.to_graph(stacked)
            values[recipe.name] = np.asarray(stacked, np.float16 if recipe.dtype == "fp16" else np.float32)
            if recipe.dtype == "fp16":
                stored.update({name: state[name].astype(np.float16).astype(np.float32) for name in recipe.sources})
        elif isinstance(recipe, MatrixRecipe):
            values.update(_quantize(recipe, state, stored))
    values.update({recipe.name: values[recipe.of] for recipe in graph.recipes if isinstance(recipe, AliasRecipe)})
    for name, value in graph.model.graph.initializers.items():
        if value.const_value is None:
            assert math.prod(value.shape) == values[name].size
            value.const_value = ir.tensor(np.ascontiguousarray(values[name]).reshape(list(value.shape)), name=name)
    return stored


def _quantize(recipe: MatrixRecipe, state: Mapping[str, np.ndarray], stored: dict[str, np.ndarray]) -> dict[str, Any]:
    """Plain rounding to the middle of the code's range (and, with zero points, to each block's own)."""
    ordered = {name: recipe.order.to_graph(state[name]) for name in recipe.sources}
    rows = np.concatenate([array.reshape(-1, recipe.columns) for array in ordered.values()])
    assert rows.shape == (recipe.rows, recipe.columns)
    size, top = recipe.block_size, 2**recipe.bits - 1
    blocks = np.pad(rows, ((0, 0), (0, -recipe.columns % size))).reshape(recipe.rows, -1, size)
    if recipe.zero_points is None:
        scales = np.abs(blocks).max(2) / (top // 2) + 1e-9
        zeros = np.full(scales.shape, 2 ** (recipe.bits - 1), np.uint8)
    else:
        low, high = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)
        scales = (high - low) / top + 1e-9
        zeros = np.rint(-low / scales).astype(np.uint8)
    scales = scales.astype(np.float32)
    codes = np.clip(np.rint(blocks / scales[..., None]) + zeros[..., None], 0, top).astype(np.uint8)
    back = ((codes.astype(np.float32) - zeros[..., None]) * scales[..., None]).reshape(recipe.rows, -1)
    back, first = back[:, : recipe.columns], 0
    for name in recipe.sources:
        height = state[name].size // recipe.columns
        stored[name] = recipe.order.to_stored(back[first : first + height].reshape(ordered[name].shape))
        first += height
    values = {recipe.codes: _pack(codes, recipe.bits), recipe.scales: scales}
    return values if recipe.zero_points is None else {**values, recipe.zero_points: _pack(zeros, recipe.bits)}


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return codes
    even = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)])
    return (even[..., 0::2] | even[..., 1::2] << 4).astype(np.uint8)


@dataclass
class Runner:
    """An ONNX Runtime session with caches of CAPACITY rows; ``length`` rows of them are committed.

    Of these, recurrent states lack the last ``behind``, whose updates are held.
    """

    session: onnxruntime.InferenceSession
    past: dict[str, np.ndarray]
    length: int = 0
    behind: int = 0

    @classmethod
    def open(cls, graph: LoweredGraph) -> Runner:
        """A session over a filled graph."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = onnxruntime.InferenceSession(ir.to_proto(graph.model).SerializeToString(), options)
        shapes = {i.name: i.shape for i in session.get_inputs() if i.name.startswith("past")}
        past = {
            name: np.zeros([size if isinstance(size, int) else CAPACITY for size in shape], np.float32)
            for name, shape in shapes.items()
        }
        return cls(session, past)

    def clear(self) -> None:
        """Forgets all rows."""
        self.length = self.behind = 0
        for array in self.past.values():
            array[...] = 0

    def step(
        self,
        tokens: Sequence[int],
        parents: Sequence[int] | None = None,
        logits_from: int | None = None,
        keep: bool = True,
        kept: int | None = None,
    ) -> np.ndarray:
        """Logits ``[rows, vocab]`` after ``tokens`` (a chain, or a tree by parent rows); the rows stay if ``keep``, or
        of a chain the first ``kept``."""
        rows, total = len(tokens), self.length + len(tokens)
        depths, feed = list(range(rows)), dict(self.past)
        if parents is not None:
            bias = np.full((1, 1, rows, total), MASKED, np.float32)
            bias[..., : self.length] = 0
            for row, parent in enumerate(parents):
                depths[row] = depths[parent] + 1 if parent >= 0 else 0
                ancestor = row
                while ancestor >= 0:
                    bias[0, 0, row, self.length + ancestor] = 0
                    ancestor = parents[ancestor]
            feed["tree_bias"] = bias
        if logits_from is not None:
            feed["logits_from"] = np.array([logits_from], np.int64)
        feed["input_ids"] = np.array([tokens], np.int64)
        feed["position_ids"] = np.array([depths], np.int64) + self.length
        feed["attention_mask"] = np.ones((1, total), np.int64)
        if any(name.startswith("past_recurrent") for name in self.past):
            feed["replay"] = np.array([self.behind, self.behind], np.int64)
        names = [output.name for output in self.session.get_outputs()]
        results = dict(zip(names, self.session.run(names, feed), strict=True))
        if keep:
            outputs = {
                name: name.replace("past_key_values", "present").replace("past_", "present_") for name in self.past
            }
            self.past = {name: results[output] for name, output in outputs.items()}
            self.behind = rows if kept is None else kept
            self.length += self.behind
        return results["logits"][0]


@dataclass(frozen=True)
class Case:
    """A model, its graph with the same weights, and the model as the graph stores it."""

    model: Any
    graph: LoweredGraph
    runner: Runner

    @classmethod
    def make(cls, config: transformers.PretrainedConfig, options: GraphOptions) -> Case:
        """A random model of ``config`` and its graph."""
        return cls.of(make_model(config), options)

    @classmethod
    def of(cls, model: Any, options: GraphOptions) -> Case:
        """Lowers the config of ``model``, fills the graph, and puts the weights as stored back into the model."""
        config = model.config
        graph = lower(config, options)
        for node in graph.model.graph:
            if node.op_type == "MatMulNBits":  # activations as they are, so that only weights are rounded
                node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
        # Tied tensors appear under both names; the recipes read the embedding's.
        stored = fill(graph, {name: tensor.numpy() for name, tensor in model.state_dict().items()})
        names = set(dict(model.named_parameters()))
        model.load_state_dict({name: torch.from_numpy(stored[name].copy()) for name in names}, strict=False)
        return cls(model, graph, Runner.open(graph))

    @torch.no_grad()
    def reference(self, tokens: Sequence[int]) -> np.ndarray:
        """The model's own logits ``[len(tokens), vocab]``, without any cache."""
        return self.model(torch.tensor([list(tokens)])).logits[0].numpy()


def relative(got: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference, relative to the largest logit."""
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())
