"""Traces a decoder's ONNX graph from its own Hugging Face code under fake tensors, at any size and without weights.

The model is built without memory, some of its modules are replaced by lowerings, torch traces its ``forward``, and our
passes simplify the graph. Recipes describe the values of its initializers, which the graph lacks.

Inputs are ``input_ids``, ``attention_mask``, ``position_ids``, ``tree_bias``, ``logits_from`` and the KV caches;
outputs are ``logits`` and the caches. Batch is 1.
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from export.graph.lowering.attention import (
    StepCache,
    TracedAttention,
    TracedStep,
    attention_lowered,
    attention_registered,
    check_layers,
)
from export.graph.lowering.linear import PLACEHOLDER, LoweredLinear, Storage
from export.graph.lowering.norm import lower_norms
from export.graph.lowering.rotary import LoweredRotary, RotaryMismatchError, find_rotary, rotary_lowered
from export.graph.model_structure import build_model
from export.graph.passes import GraphRecipes, run_passes
from export.graph.recipe import ConstantRecipe, LoweredGraph, PlainRecipe, Recipe
from export.manifest import ModelShape, WeightType
from export.sources.model_shape import ArchitectureError, refuse, shape_of
from export.untrusted import first_line


@dataclass(frozen=True)
class GraphOptions:
    """How to lower: the storage of the weights, and the positions of the rotary tables (None: all of the model's)."""

    weights: WeightType
    block_size: int = 32
    symmetric: bool = True
    positions: int | None = None

    def __post_init__(self) -> None:
        size = self.block_size
        if not 16 <= size <= 256 or size & (size - 1):
            raise ArchitectureError(f"block size {size} is not allowed; use 16, 32, 64, 128 or 256")

    @property
    def storage(self) -> Storage:
        """How matrices are stored."""
        return Storage(self.weights, self.block_size, self.symmetric)


def lower(config: transformers.PretrainedConfig, options: GraphOptions) -> LoweredGraph:
    """The graph of ``config``'s causal language model, and the recipes of its initializers.

    Raises ArchitectureError with the reason where the graph would be wrong or cannot be built.
    """
    config = copy.deepcopy(config)
    shape = shape_of(config, options.positions)
    refuse(config, shape)
    if getattr(config, "quantization_config", None) is not None:
        raise ArchitectureError(f"{config.model_type}: quantized already; start from the unquantized one")
    attention = TracedAttention()
    try:
        with _quiet(), attention_registered(attention):
            model, mode = build_model(config)
            traced, program = _trace(model, mode, attention, shape)
        return _finish(program.model, traced, options.storage)
    except ArchitectureError as error:
        raise ArchitectureError(f"{config.model_type}: {error}") from error.__cause__


class _Traced(nn.Module):
    """The forward that is traced: from flat inputs to logits and the present keys and values of every layer."""

    def __init__(self, model: nn.Module, attention: TracedAttention) -> None:
        super().__init__()
        self.model, self.attention = model, attention
        self.offsets: dict[str, float] = {}

    def forward(
        self, input_ids: Any, attention_mask: Any, position_ids: Any, bias: Any, logits_from: Any, past: Any
    ) -> Any:
        """Logits ``[1, S - logits_from, vocab]`` and the present keys and values in layer order."""
        cache = StepCache(len(past))
        step = TracedStep(past, input_ids, attention_mask, position_ids, bias, logits_from, cache, [None] * len(past))
        self.attention.step = step
        output = self.model(
            input_ids=input_ids, position_ids=position_ids, past_key_values=cache, use_cache=True, return_dict=True
        )
        check_layers(step)
        return output.logits, *[tensor for pair in step.present for tensor in pair or ()]


def _trace(model: Any, mode: FakeTensorMode, attention: TracedAttention, shape: ModelShape) -> tuple[_Traced, Any]:
    """The traced program, with rotary embeddings lowered if the model's are those of the operator."""
    namespaces = [sys.modules[name] for name in dict.fromkeys(type(part).__module__ for part in model.modules())]
    traced = _Traced(model, attention)
    traced.offsets = lower_norms(model)
    _lower_linears(model, attention)
    rotary = find_rotary(model)
    with (
        attention_lowered(namespaces, shape.positions),
        rotary_lowered(namespaces),
        _all_rows(namespaces),
        mode,
        torch.no_grad(),
    ):
        arguments = _arguments(shape)
        for name, module in rotary.items():
            model.set_submodule(name, LoweredRotary(module, shape.positions))
        try:
            _run(traced, arguments)
        except RotaryMismatchError:
            for name, module in rotary.items():
                model.set_submodule(name, module)
            _run(traced, arguments)
        return traced, _export(traced, arguments, shape)


@contextmanager
def _all_rows(namespaces: Sequence[Any]) -> Iterator[None]:
    """A context without the model's own choice of rows: ``logits_from`` cuts them in front of the head."""
    with ExitStack() as stack:
        for namespace in namespaces:
            if hasattr(namespace, "slice_logits_to_keep"):
                stack.enter_context(mock.patch.object(namespace, "slice_logits_to_keep", lambda hidden, _: hidden))
        yield


def _run(traced: _Traced, arguments: Any) -> None:
    """One fake forward, in which every refusal shows before the slow export."""
    try:
        traced(*arguments)
    except (ArchitectureError, RotaryMismatchError):
        raise
    except Exception as error:
        raise ArchitectureError(f"its forward does not fit our graph ({first_line(error)})") from error


def _lower_linears(model: Any, attention: TracedAttention) -> None:
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ArchitectureError(f"its head is {type(head).__name__}, not a plain linear layer")
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            lowered = LoweredLinear(module)
            if module is head:
                lowered.register_forward_pre_hook(lambda _, inputs: (attention.current.wanted_rows(inputs[0]),))
            model.set_submodule(name, lowered)
    known = {module.weight for module in model.modules() if isinstance(module, LoweredLinear)}
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and parameter not in known and parameter is not model.get_input_embeddings().weight:
            raise ArchitectureError(_no_place_for(model, name, parameter))


def _no_place_for(model: Any, name: str, parameter: nn.Parameter) -> str:
    owner, shape = model.get_submodule(name.rpartition(".")[0]), list(parameter.shape)
    if isinstance(owner, nn.Embedding):
        return f"it looks {name} {shape} up beside its token embedding: learned positions, say; they must be rotary"
    return f"{name} {shape} is a weight of a {type(owner).__name__}; only linear layers and the embedding can have one"


# Sizes of the traced example. Rows, total and capacity are dynamic; they differ, so that torch equates none of them.
_ROWS, _TOTAL, _CAPACITY = 4, 11, 64


def _arguments(shape: ModelShape) -> tuple[Any, ...]:
    cache = (1, shape.kv_heads, _CAPACITY, shape.head_size)
    past = [(torch.zeros(cache), torch.zeros(cache)) for _ in range(shape.layers)]
    ids = torch.ones(1, _ROWS, dtype=torch.int64)
    mask = torch.ones(1, _TOTAL, dtype=torch.int64)
    positions = torch.arange(_ROWS)[None]
    return ids, mask, positions, torch.zeros(1, 1, _ROWS + 1, _TOTAL + 1), torch.zeros(1, dtype=torch.int64), past


def _export(traced: _Traced, arguments: Any, shape: ModelShape) -> Any:
    cache = {2: "capacity"}
    dynamic = (
        {1: "rows"},
        {1: "total"},
        {1: "rows"},
        {2: "bias_rows", 3: "bias_total"},
        None,
        [(cache, cache)] * shape.layers,
    )
    pairs = [f"{i}.{kind}" for i in range(shape.layers) for kind in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids", "tree_bias", "logits_from"]
    try:
        return torch.onnx.export(
            traced,
            arguments,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=21,
            dynamic_shapes=dynamic,
            input_names=inputs + [f"past_key_values.{pair}" for pair in pairs],
            output_names=["logits", *(f"present.{pair}" for pair in pairs)],
        )
    except Exception as error:
        raise ArchitectureError(f"torch cannot export it ({first_line(error)})") from error


def _finish(model: ir.Model, traced: _Traced, storage: Storage) -> LoweredGraph:
    """Gives initializers their names and recipes, runs the passes, and sets the defaults of inputs."""
    weights = GraphRecipes(storage)
    sources = _sources(traced.model)
    tables = {
        f"{path}.{module.buffer_name(key, part)}": getattr(table, part)
        for path, module in traced.model.named_modules()
        if isinstance(module, LoweredRotary)
        for key, table in module.tables.items()
        for part in ("cos", "sin")
    }
    for value in list(model.graph.initializers.values()):
        name = str(value.name).removeprefix("model.")
        if not isinstance(getattr(value.const_value, "raw", None), FakeTensor):
            continue
        if name not in tables and name not in sources:
            raise ArchitectureError(f"it computes with {name}, a buffer that no checkpoint stores")
        value.name = sources.get(name, name)
        weights.recipes[str(value.name)] = _recipe(value, tables.get(name), traced.offsets.get(name, 0.0))
        value.const_value = None
    _check_embedding(model, weights)
    run_passes(model, weights)
    _name_rows(model)
    _set_defaults(model)
    kept = {name: recipe for name, recipe in weights.recipes.items() if name in model.graph.initializers}
    return LoweredGraph(model, tuple(kept.values()))


def _check_embedding(model: ir.Model, weights: GraphRecipes) -> None:
    """ArchitectureError if a matrix feeds anything but linear layers and the lookup of token ids."""
    for name, recipe in weights.recipes.items():
        if isinstance(recipe, PlainRecipe) and len(recipe.shape) == 2:
            for node, index in model.graph.initializers[name].uses():
                gathers = (node.op_type, index) == ("Gather", 0) and getattr(node.inputs[1], "name", "") == "input_ids"
                if not gathers and (node.op_type, index) != (PLACEHOLDER, 1):
                    raise ArchitectureError(f"weight {name} {list(recipe.shape)} feeds {node.op_type}")


def _recipe(value: ir.Value, table: Any, offset: float) -> Recipe:
    name = str(value.name)
    if table is not None:
        return ConstantRecipe(name, table)
    assert value.shape is not None
    return PlainRecipe(name, (name,), tuple(int(dim) for dim in value.shape), offset=offset)  # type: ignore[arg-type]


def _sources(model: Any) -> dict[str, str]:
    """The checkpoint's name of every tensor that it stores; tied parameters have that of the embedding."""
    stored = model.state_dict().keys()
    names = dict(model.named_parameters(remove_duplicate=False))
    names |= {name: buffer for name, buffer in model.named_buffers() if name in stored}
    embedding = model.get_input_embeddings().weight
    first = next(name for name, parameter in names.items() if parameter is embedding)
    return {name: first if parameter is embedding else name for name, parameter in names.items()}


def _name_rows(model: ir.Model) -> None:
    """Renames the rows between the cut by ``logits_from`` and the logits: the trace took them for all S rows."""
    pending = [value for value in model.graph.inputs if value.name == "logits_from"]
    while pending:
        for node, _ in pending.pop().uses():
            output = node.outputs[0]
            if output.shape is not None:
                output.shape = ir.Shape([1, "wanted_rows", *list(output.shape)[2:]])
            pending.append(output)


def _set_defaults(model: ir.Model) -> None:
    """Makes inputs optional: an initializer of the same name is the value of an input that is not given."""
    defaults = {
        "tree_bias": ir.tensor(np.zeros((1, 1, 1, 1), np.float32), name="tree_bias"),
        "logits_from": ir.tensor(np.zeros(1, np.int64), name="logits_from"),
    }
    for value in model.graph.inputs:
        if (default := defaults.get(str(value.name))) is not None:
            value.const_value = default
            model.graph.register_initializer(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without the warnings of torch's exporter, which knows no contrib operator."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        stack.callback(logging.disable, before)
        yield
