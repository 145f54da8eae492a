"""Traces a decoder's ONNX graph from its own Hugging Face code under fake tensors, at any size and without weights.

The model is built without memory, some of its modules are replaced by lowerings, torch traces its ``forward``, and our
passes simplify the graph. Recipes describe the values of its initializers, which the graph lacks.

Inputs are ``input_ids``, ``attention_mask``, ``position_ids``, ``tree_bias``, ``logits_from`` and the KV caches;
outputs are ``logits`` and the caches. Batch is 1. A model of which some layers have states instead of a KV cache has
these as inputs and outputs beside it, ``replay`` where they are recurrent (``lowering.states``), and no ``tree_bias``.
Hidden rows may be outputs as well (``taps``). A prediction head has two inputs more, ``features`` for hidden rows of
the target and ``own_hidden`` for its own, and the output ``hidden`` with its own from ``logits_from`` on.
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from export.graph.expert_functions import EXPERTS, ROUTER, ExpertInput
from export.graph.functions import define_functions
from export.graph.ir_helpers import input_of
from export.graph.lowering.attention import (
    StepCache,
    TracedAttention,
    TracedStep,
    attention_lowered,
    attention_registered,
    check_layers,
)
from export.graph.lowering.experts import expert_parameters, lower_experts
from export.graph.lowering.linear import PLACEHOLDER, LoweredLinear, Storage
from export.graph.lowering.norm import lower_norms
from export.graph.lowering.rotary import LoweredRotary, RotaryMismatchError, find_rotary, rotary_lowered
from export.graph.lowering.sparse_activation import lower_sparse_activations
from export.graph.lowering.states import TracedStates, check_states, state_names, states_lowered
from export.graph.model_structure import build_model
from export.graph.passes import GraphRecipes, run_passes
from export.graph.recipe import ConstantRecipe, LoweredGraph, PlainRecipe, Recipe
from export.graph.taps import tap_name, tapped
from export.graph.torch_exporter import quick_export
from export.heads.head import Head, PredictionHead
from export.heads.stack import HeadStack
from export.manifest import ModelShape, Tap, WeightType
from export.sources.kv_layers import kv_layers
from export.sources.layer_states import StatefulLayers, layer_states
from export.sources.model_shape import ArchitectureError, refuse, shape_of
from export.untrusted import first_line


@dataclass(frozen=True)
class GraphOptions:
    """How to lower: the storage of the weights, the positions of the rotary tables (None: all of the model's), and the
    rows of a head that was cut (None: the model's own).
    """

    weights: WeightType
    block_size: int = 32
    symmetric: bool = True
    positions: int | None = None
    logits_width: int | None = None

    def __post_init__(self) -> None:
        size = self.block_size
        if not 16 <= size <= 256 or size & (size - 1):
            raise ArchitectureError(f"block size {size} is not allowed; use 16, 32, 64, 128 or 256")

    @property
    def storage(self) -> Storage:
        """How matrices are stored."""
        return Storage(self.weights, self.block_size, self.symmetric)


def lower(
    config: transformers.PretrainedConfig, options: GraphOptions, taps: Sequence[Tap] = (), head: Head | None = None
) -> LoweredGraph:
    """The graph of ``config``'s causal language model, and the recipes of its initializers.

    It gives its hidden rows at ``taps``. Of a ``head``, whose ``config`` it is, it is the graph of that. Raises
    ArchitectureError with the reason where the graph would be wrong or cannot be built.
    """
    config = copy.deepcopy(config)
    shape, caches = shape_of(config, options.positions), kv_layers(config)
    refuse(config, shape)
    if head is not None and not head.has_layers:
        shape, caches = replace(shape, layers=0), {}
    if getattr(config, "quantization_config", None) is not None:
        raise ArchitectureError(f"{config.model_type}: quantized already; start from the unquantized one")
    attention = TracedAttention()
    try:
        with _quiet(), attention_registered(attention):
            model, mode = build_model(config, head, options.logits_width)
            inputs = _GraphInputs(shape, caches, layer_states(config), tuple(taps), head)
            traced, program = _trace(model, mode, attention, inputs)
        return _finish(program.model, traced, options.storage)
    except ArchitectureError as error:
        raise ArchitectureError(f"{config.model_type}: {error}") from error.__cause__


class _Traced(nn.Module):
    """The forward that is traced: from flat inputs to logits and the present keys and values of every layer."""

    def __init__(self, model: nn.Module, attention: TracedAttention, inputs: _GraphInputs) -> None:
        super().__init__()
        self.model, self.attention, self.inputs = model, attention, inputs
        self.offsets: dict[str, float] = {}

    def forward(self, given: Mapping[str, Any]) -> Any:
        """Logits ``[1, S - logits_from, vocab]``, the present keys and values in layer order, present states, taps, and
        hidden rows of a head.

        ``given`` has every input of the graph by its name.
        """
        inputs = self.inputs
        cache = StepCache(inputs.shape.layers)
        past = {layer: tuple(given[name] for name in inputs.pair(_PAST, layer)) for layer in inputs.caches}
        step = TracedStep(
            past,
            given["input_ids"],
            given["attention_mask"],
            given["position_ids"],
            given.get("tree_bias"),
            given["logits_from"],
            cache,
            readers=inputs.readers,
        )
        if inputs.states is not None:
            cache.states = inputs.states_of(given, step.length())
        self.attention.step = step
        rows = {name: given[name] for name in _HEAD_INPUTS if name in given}
        with tapped(self.model, inputs.taps) as hidden:
            output = self.model(
                input_ids=step.input_ids,
                position_ids=step.position_ids,
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
                **rows,
            )
        check_layers(step)
        present = [tensor for layer in past for tensor in step.present[layer]]
        found = [hidden[tap] for tap in inputs.taps]
        own = (
            [] if inputs.head is None else [output.hidden if self.model.cuts_rows else step.wanted_rows(output.hidden)]
        )
        return output.logits, *present, *check_states(cache.states, inputs.shape.layers), *found, *own


def _trace(model: Any, mode: FakeTensorMode, attention: TracedAttention, inputs: _GraphInputs) -> tuple[_Traced, Any]:
    """The traced program, with rotary embeddings lowered if the model's are those of the operator."""
    shape = inputs.shape
    namespaces = [sys.modules[name] for name in dict.fromkeys(type(part).__module__ for part in model.modules())]
    traced = _Traced(model, attention, inputs)
    traced.offsets = lower_norms(model)
    _lower_experts(model, shape)
    lower_sparse_activations(model)
    _lower_linears(model, attention)
    if isinstance(model, PredictionHead):
        model.join = lambda *parts: attention.current.joined(*parts)
    if isinstance(model, HeadStack):
        model.wanted = lambda rows: attention.current.wanted_rows(rows)
        model.between = lambda rows, *places: attention.current.rows_between(rows, *places)
        model.gathered = lambda parts: attention.current.joined(*parts)
    rotary = find_rotary(model)
    with (
        attention_lowered(namespaces, shape.positions),
        rotary_lowered(namespaces),
        states_lowered(namespaces),
        _all_rows(model, namespaces),
        mode,
        torch.no_grad(),
    ):
        given = inputs.example()
        for name, module in rotary.items():
            model.set_submodule(name, LoweredRotary(module, shape.positions, lambda: attention.current.position_ids))
        try:
            _run(traced, given)
        except RotaryMismatchError:
            for name, module in rotary.items():
                model.set_submodule(name, module)
            _run(traced, given)
        return traced, _export(traced, inputs)


_CUT_ROWS = "_maybe_slice_kv_shared_inputs"


@contextmanager
def _all_rows(model: nn.Module, namespaces: Sequence[Any]) -> Iterator[None]:
    """A context without the model's own choice of rows: ``logits_from`` cuts them in front of the head."""
    with ExitStack() as stack:
        for part in model.modules():
            if hasattr(part, _CUT_ROWS):  # of Gemma 4, in front of the layers without caches
                stack.enter_context(mock.patch.object(part, _CUT_ROWS, lambda *kept, **_: kept[:4]))
        for namespace in namespaces:
            if hasattr(namespace, "slice_logits_to_keep"):
                stack.enter_context(mock.patch.object(namespace, "slice_logits_to_keep", lambda hidden, _: hidden))
        yield


def _run(traced: _Traced, given: Mapping[str, Any]) -> None:
    """One fake forward, in which every refusal shows before the slow export."""
    try:
        traced(given)
    except (ArchitectureError, RotaryMismatchError):
        raise
    except Exception as error:
        raise ArchitectureError(f"its forward does not fit our graph ({first_line(error)})") from error


def _lower_experts(model: nn.Module, shape: ModelShape) -> None:
    found, expected = lower_experts(model), 0 if shape.experts is None else shape.experts.layers
    if found != expected:
        raise ArchitectureError(f"{found} of its layers have a router of experts, {expected} by its config")


def _lower_linears(model: Any, attention: TracedAttention) -> None:
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ArchitectureError(f"its head is {type(head).__name__}, not a plain linear layer")
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            lowered = LoweredLinear(module)
            if module is head and not getattr(model, "cuts_rows", False):
                lowered.register_forward_pre_hook(lambda _, inputs: (attention.current.wanted_rows(inputs[0]),))
            model.set_submodule(name, lowered)
    known = {module.weight for module in model.modules() if isinstance(module, LoweredLinear) or _is_causal(module)}
    known |= _layer_tables(model) | expert_parameters(model)
    if (embedding := model.get_input_embeddings()) is not None:
        known.add(embedding.weight)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and parameter not in known:
            raise ArchitectureError(_no_place_for(model, name, parameter))


def _is_causal(module: nn.Module) -> bool:
    """Whether ``module`` may be a convolution over rows, channel by channel, whose weight its layer hands on."""
    return isinstance(module, nn.Conv1d) and module.groups == module.in_channels == module.out_channels


def _layer_tables(model: Any) -> set[nn.Parameter]:
    """The tables that token ids look up for every layer, beside the embedding (Gemma 4)."""
    rows = getattr(model.config, "vocab_size_per_layer_input", None)
    tables = (module for module in model.modules() if isinstance(module, nn.Embedding))
    return {table.weight for table in tables if table.num_embeddings == rows}


def _no_place_for(model: Any, name: str, parameter: nn.Parameter) -> str:
    owner, shape = model.get_submodule(name.rpartition(".")[0]), list(parameter.shape)
    if isinstance(owner, nn.Embedding):
        return f"it looks {name} {shape} up beside its token embedding: learned positions, say; they must be rotary"
    return f"{name} {shape} is a weight of a {type(owner).__name__}; only linear layers and the embedding can have one"


_WANTED = "wanted_rows"
# Sizes of the traced example. Dynamic ones differ, so that torch equates none of them.
_ROWS, _TOTAL, _CAPACITY, _SLOTS, _HELD = 4, 11, 64, 23, 37
_PAST, _PRESENT = "past_key_values", "present"
_HEAD_INPUTS = ("features", "own_hidden")


@dataclass(frozen=True)
class _GraphInputs:
    """The inputs of the traced forward: of a model of ``shape``, some of whose layers may have ``states``, or a head.

    ``caches`` has (kv_heads, head_size) of the layers with a KV cache.
    """

    shape: ModelShape
    caches: Mapping[int, tuple[int, int]]
    states: StatefulLayers | None
    taps: tuple[Tap, ...] = ()
    head: Head | None = None

    @property
    def others(self) -> tuple[int, ...]:
        """The layers with states."""
        return () if self.states is None else self._without_caches

    @property
    def readers(self) -> tuple[int, ...]:
        """The layers that attend to the KV caches of earlier ones."""
        return self._without_caches if self.states is None else ()

    @property
    def _without_caches(self) -> tuple[int, ...]:
        return tuple(layer for layer in range(self.shape.layers) if layer not in self.caches)

    @property
    def recurrent(self) -> tuple[int, ...]:
        """The layers with recurrent states."""
        return self.others if self.shape.recurrences is not None else ()

    @staticmethod
    def pair(time: str, layer: int) -> tuple[str, str]:
        """The names of a layer's keys and values."""
        return f"{time}.{layer}.key", f"{time}.{layer}.value"

    def states_of(self, given: Mapping[str, Any], length: torch.Tensor) -> TracedStates:
        """The states among the inputs, for a text of ``length`` with the step's rows."""
        kinds = ("conv", self.others), ("recurrent", self.recurrent), ("updates", self.recurrent)
        rows, bases, updates = ({layer: given[f"past_{kind}.{layer}"] for layer in layers} for kind, layers in kinds)
        return TracedStates(rows, bases, updates, given.get("replay"), length)

    def outputs(self) -> list[str]:
        """The names of all outputs."""
        pairs = [name for layer in self.caches for name in self.pair(_PRESENT, layer)]
        states = state_names("present", self.others, self.recurrent)
        return ["logits", *pairs, *states, *map(tap_name, self.taps), *(["hidden"] if self.head is not None else [])]

    def example(self) -> dict[str, torch.Tensor]:
        """An example of every input by its name, in the graph's order."""
        example = {
            "input_ids": torch.ones(1, _ROWS, dtype=torch.int64),
            "attention_mask": torch.ones(1, _TOTAL, dtype=torch.int64),
            "position_ids": torch.arange(_ROWS)[None],
        }
        if self.states is None:
            example["tree_bias"] = torch.zeros(1, 1, _ROWS + 1, _TOTAL + 1)
        example["logits_from"] = torch.zeros(1, dtype=torch.int64)
        if self.head is not None:
            example["features"] = torch.zeros(1, _ROWS - 1, self.head.width)
            example["own_hidden"] = torch.zeros(1, _ROWS - 2, self.head.own_width)
        for layer, (heads, size) in self.caches.items():
            example |= {name: torch.zeros(1, heads, _CAPACITY, size) for name in self.pair(_PAST, layer)}
        return example | self._states()

    def _states(self) -> dict[str, torch.Tensor]:
        convolution, recurrence, sizes = self.shape.convolutions, self.shape.recurrences, dict[str, Any]()
        if convolution is not None:
            sizes["past_conv"] = (1, _SLOTS, convolution.channels)
        if recurrence is not None:
            sizes["past_recurrent"] = (1, recurrence.heads, recurrence.key_size, recurrence.value_size)
            sizes["past_updates"] = (1, _HELD, recurrence.update_size)
        states = {f"{kind}.{layer}": torch.zeros(size) for kind, size in sizes.items() for layer in self.others}
        return states | ({"replay": torch.zeros(2, dtype=torch.int64)} if recurrence is not None else {})

    def dynamic_shapes(self) -> dict[str, Any]:
        """Which sizes of each input are not fixed, by name."""
        known: dict[str, Any] = {
            "input_ids": {1: "rows"},
            "attention_mask": {1: "total"},
            "position_ids": {1: "rows"},
            "tree_bias": {2: "bias_rows", 3: "bias_total"},
            "features": {1: "features"},
            "own_hidden": {1: "own_rows"},
            _PAST: {2: "capacity"},
            "past_conv": {1: "conv_slots"},
            "past_updates": {1: "held_rows"},
        }
        return {name: known.get(name.split(".")[0]) for name in self.example()}


def _export(traced: _Traced, inputs: _GraphInputs) -> Any:
    given = inputs.example()
    try:
        with quick_export():
            return torch.onnx.export(
                traced,
                (),
                kwargs={"given": given},
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=21,
                dynamic_shapes={"given": inputs.dynamic_shapes()},
                input_names=list(given),
                output_names=inputs.outputs(),
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
    define_functions(model)
    kept = {name: recipe for name, recipe in weights.recipes.items() if name in model.graph.initializers}
    return LoweredGraph(model, tuple(kept.values()))


# Inputs that take matrices; biases of experts are one.
_MATRIX_SLOTS = {(PLACEHOLDER, 1), (ROUTER, 1), (EXPERTS, ExpertInput.GATE_UP_BIAS), (EXPERTS, ExpertInput.DOWN_BIAS)}


def _check_embedding(model: ir.Model, weights: GraphRecipes) -> None:
    """ArchitectureError if a matrix feeds anything but linear layers and the lookup of token ids."""
    for name, recipe in weights.recipes.items():
        if isinstance(recipe, PlainRecipe) and len(recipe.shape) == 2:
            for node, index in model.graph.initializers[name].uses():
                gathers = (node.op_type, index) == ("Gather", 0) and _made_of_ids(input_of(node, 1))
                if not gathers and (node.op_type, index) not in _MATRIX_SLOTS:
                    raise ArchitectureError(f"weight {name} {list(recipe.shape)} feeds {node.op_type}")


def _made_of_ids(value: ir.Value) -> bool:
    """Whether a value is computed from ``input_ids``, perhaps the wanted ones, and constants alone."""
    node = value.producer()
    if node is None:
        return value.name in ("input_ids", "logits_from") or value.const_value is not None
    return all(_made_of_ids(given) for given in node.inputs if given is not None)


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
    embedding = getattr(model.get_input_embeddings(), "weight", None)
    first = next((name for name, parameter in names.items() if parameter is embedding), "")
    return {name: first if parameter is embedding else name for name, parameter in names.items()}


def _name_rows(model: ir.Model) -> None:
    """Renames the rows behind the cut by ``logits_from``: the trace took them for all S rows.

    Rows of one head of a stack are other ones, up to where those of all heads are put together.
    """
    pending = [(value, _WANTED) for value in model.graph.inputs if value.name == "logits_from"]
    seen = set()
    while pending:
        value, rows = pending.pop()
        for node, _ in value.uses():
            if node in seen:
                continue
            seen.add(node)
            name = rows
            if node.op_type == "Slice" and _starts_anywhere(input_of(node, 1)):
                name = f"rows_{len(seen)}"
            elif node.op_type == "Concat" and node.attributes["axis"].as_int() == 1:
                name = _WANTED
            for output in node.outputs:
                if output.shape is not None and len(output.shape) > 1 and not isinstance(output.shape[1], int):
                    output.shape = ir.Shape([1, name, *list(output.shape)[2:]])
                pending.append((output, name))


def _starts_anywhere(value: ir.Value) -> bool:
    """Whether the start of a slice is computed, from another input than ``logits_from``."""
    return value.name != "logits_from" and value.const_value is None and not value.is_initializer()


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
