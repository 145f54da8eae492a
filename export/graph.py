"""A decoder's ONNX graph from its own Hugging Face code, under fake tensors: any size, no weights.

The model is built without memory, a few of its modules are replaced by lowerings, its ``ForCausalLM.forward`` is traced
by torch, and our passes tidy up. What the graph lacks, the values of its initializers, is described by recipes.
Inputs and outputs: see ``LoweredGraph`` and ARCHITECTURE; batch is 1.
"""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import numpy as np
import onnx_ir as ir
import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from export.lowering import UnsupportedGraphError
from export.lowering.attention import (
    IMPLEMENTATION,
    Attention,
    Step,
    StepCache,
    attention_lowered,
    attention_registered,
    check_layers,
)
from export.lowering.linear import PLACEHOLDER, LoweredLinear, Storage
from export.lowering.norm import lower_norms
from export.lowering.rotary import LoweredRotary, RotaryMismatchError, find_rotary, rotary_lowered
from export.manifest import Shape
from export.passes import Weights, run_passes
from export.recipe import ConstantRecipe, LoweredGraph, PlainRecipe, Recipe

_Weights = Literal["int4", "int8", "fp16", "fp32"]
_FORBIDDEN = {"num_experts": "experts", "num_local_experts": "experts", "n_routed_experts": "experts"}
_LIMITED_ROPE = ("longrope", "dynamic")


@dataclass(frozen=True)
class GraphOptions:
    """How to lower: the storage of the weights, and the positions the rotary tables cover (None: all the model has)."""

    weights: _Weights
    block_size: int = 32
    symmetric: bool = True
    positions: int | None = None

    def __post_init__(self) -> None:
        size = self.block_size
        if size < 16 or size & (size - 1):
            raise UnsupportedGraphError(
                f"block size {size} is not allowed; use a power of two from 16, such as 32 or 128"
            )

    @property
    def storage(self) -> Storage:
        """The part that concerns matrices."""
        return Storage(self.weights, self.block_size, self.symmetric)


def shape_of(config: transformers.PretrainedConfig, positions: int | None = None) -> Shape:
    """Sizes of the graph that ``lower`` makes from ``config``.

    Positions are those the model was made for, at most ``positions``; a rotary embedding that changes with the length
    of the text (longrope, dynamic) is limited to the length where it does not.
    """
    name = config.model_type
    try:
        heads, hidden = int(config.num_attention_heads), int(config.hidden_size)
        longest = _longest(config)
        layers, vocab = int(config.num_hidden_layers), int(config.vocab_size)
    except (AttributeError, TypeError) as error:
        raise UnsupportedGraphError(f"{name}: its config is not a text decoder's ({error})") from None
    if positions is not None and not 0 < positions <= longest:
        raise UnsupportedGraphError(f"{name}: {positions} positions asked, allowed are 1 to {longest}")
    mlp = getattr(config, "intermediate_size", None)
    return Shape(
        layers=layers,
        hidden_size=hidden,
        mlp_size=int(mlp or 4 * hidden),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_size=int(getattr(config, "head_dim", None) or hidden // heads),
        vocab_size=vocab,
        positions=positions or longest,
    )


def lower(config: transformers.PretrainedConfig, options: GraphOptions) -> LoweredGraph:
    """The graph of ``config``'s causal language model, and the recipes of its initializers.

    Raises UnsupportedGraphError with the reason where the graph would be wrong or cannot be built.
    """
    config = copy.deepcopy(config)
    shape = shape_of(config, options.positions)
    _refuse(config, shape)
    attention = Attention()
    try:
        with _quiet(), attention_registered(attention):
            model, mode = _build(config)
            traced, program = _trace(model, mode, attention, shape)
        return _finish(program.model, traced, options.storage)
    except UnsupportedGraphError as error:
        raise UnsupportedGraphError(f"{config.model_type}: {error}") from error.__cause__


class _Traced(nn.Module):
    """The forward that is traced: flat inputs to logits and the present keys and values of every layer."""

    def __init__(self, model: nn.Module, attention: Attention) -> None:
        super().__init__()
        self.model, self.attention = model, attention
        self.offsets: dict[str, float] = {}

    def forward(
        self, input_ids: Any, attention_mask: Any, position_ids: Any, bias: Any, logits_from: Any, past: Any
    ) -> Any:
        """Logits ``[1, S - logits_from, vocab]`` and the present keys and values in layer order."""
        cache = StepCache(len(past))
        step = Step(past, input_ids, attention_mask, position_ids, bias, logits_from, cache, [None] * len(past))
        self.attention.step = step
        output = self.model(
            input_ids=input_ids, position_ids=position_ids, past_key_values=cache, use_cache=True, return_dict=True
        )
        check_layers(step)
        return output.logits, *[tensor for pair in step.present for tensor in pair or ()]


def _refuse(config: transformers.PretrainedConfig, shape: Shape) -> None:
    name = config.model_type
    if getattr(config, "is_encoder_decoder", False) or config.get_text_config() is not config:
        raise UnsupportedGraphError(f"{name}: not a decoder of text alone; export its text model")
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedGraphError(f"{name}: the checkpoint is quantized already; start from the unquantized one")
    for attribute, what in _FORBIDDEN.items():
        if (getattr(config, attribute, None) or 0) > 1:
            raise UnsupportedGraphError(f"{name}: mixtures of {what} are not supported")
    if shape.head_size % 8:
        raise UnsupportedGraphError(f"{name}: head size {shape.head_size} is not a multiple of 8")
    if shape.heads % shape.kv_heads:
        raise UnsupportedGraphError(f"{name}: {shape.heads} heads cannot share {shape.kv_heads} key-value heads")


def _longest(config: transformers.PretrainedConfig) -> int:
    longest = int(config.max_position_embeddings)
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in rope.values() if all(isinstance(part, dict) for part in rope.values()) else [rope]:
        if parameters and parameters.get("rope_type") in _LIMITED_ROPE:
            original = parameters.get("original_max_position_embeddings")
            longest = min(
                longest, int(original or getattr(config, "original_max_position_embeddings", None) or longest)
            )
    return longest


def _build(config: transformers.PretrainedConfig) -> tuple[nn.Module, FakeTensorMode]:
    """The model without memory for its parameters; buffers that no checkpoint holds have their values."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode:
            model = transformers.AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=IMPLEMENTATION, trust_remote_code=False
            )
    except Exception as error:
        raise UnsupportedGraphError(f"transformers cannot build it for our attention ({_first_line(error)})") from error
    _fill_buffers(model)
    return model.eval(), mode


def _fill_buffers(model: Any) -> None:
    """Gives buffers outside of checkpoints (rotary frequencies, embedding scales) the values HF's own code gives them."""
    persistent = set(model.state_dict())
    for path, module in model.named_modules():
        missing = [
            name for name, _ in module.named_buffers(recurse=False) if f"{path}.{name}".lstrip(".") not in persistent
        ]
        for name in missing:
            fake = getattr(module, name)
            fill = float("nan") if fake.dtype.is_floating_point else -1
            setattr(module, name, torch.full(fake.shape, fill, dtype=fake.dtype))
        if missing:
            model._init_weights(module)
        for name in missing:
            value = getattr(module, name)
            if bool((value != value).any() if value.dtype.is_floating_point else (value == -1).any()):
                raise UnsupportedGraphError(f"buffer {name} of {path} has no value that could be exported")


def _trace(model: Any, mode: FakeTensorMode, attention: Attention, shape: Shape) -> tuple[_Traced, Any]:
    """The traced program, with rotary embeddings lowered if the model's are of the operator's kind."""
    namespaces = [sys.modules[name] for name in dict.fromkeys(type(part).__module__ for part in model.modules())]
    traced = _Traced(model, attention)
    traced.offsets = lower_norms(model)
    _lower_linears(model, attention)
    rotary = find_rotary(model)
    with attention_lowered(namespaces), rotary_lowered(namespaces), _all_rows(namespaces), mode, torch.no_grad():
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
    """The model's own choice of rows is left out: the head cuts them by ``logits_from``."""
    with ExitStack() as stack:
        for namespace in namespaces:
            if hasattr(namespace, "slice_logits_to_keep"):
                stack.enter_context(mock.patch.object(namespace, "slice_logits_to_keep", lambda hidden, _: hidden))
        yield


def _run(traced: _Traced, arguments: Any) -> None:
    """One fake forward: every refusal shows here, before the slow export."""
    try:
        traced(*arguments)
    except (UnsupportedGraphError, RotaryMismatchError):
        raise
    except Exception as error:
        raise UnsupportedGraphError(f"its forward does not fit our graph ({_first_line(error)})") from error


def _lower_linears(model: Any, attention: Attention) -> None:
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise UnsupportedGraphError(f"its head is {type(head).__name__}, not a plain linear layer")
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            lowered = LoweredLinear(module)
            if module is head:
                lowered.register_forward_pre_hook(lambda _, inputs: (attention.current.wanted_rows(inputs[0]),))
            model.set_submodule(name, lowered)
        elif isinstance(module, nn.Linear):
            raise UnsupportedGraphError(f"{name} is {type(module).__name__}, a linear layer of its own kind")


# Sizes of the traced example: rows, total and capacity are dynamic and differ, so that none is taken for another.
_ROWS, _TOTAL, _CAPACITY = 4, 11, 64


def _arguments(shape: Shape) -> tuple[Any, ...]:
    cache = (1, shape.kv_heads, _CAPACITY, shape.head_size)
    past = [(torch.zeros(cache), torch.zeros(cache)) for _ in range(shape.layers)]
    ids = torch.ones(1, _ROWS, dtype=torch.int64)
    mask = torch.ones(1, _TOTAL, dtype=torch.int64)
    positions = torch.arange(_ROWS)[None]
    return ids, mask, positions, torch.zeros(1, 1, _ROWS + 1, _TOTAL + 1), torch.zeros(1, dtype=torch.int64), past


def _export(traced: _Traced, arguments: Any, shape: Shape) -> Any:
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
        raise UnsupportedGraphError(f"torch cannot export it ({_first_line(error)})") from error


def _finish(model: ir.Model, traced: _Traced, storage: Storage) -> LoweredGraph:
    """Names, recipes, passes, and the inputs that have a default."""
    weights = Weights(storage)
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
            raise UnsupportedGraphError(f"the graph needs {name}, which is none of its parameters")
        value.name = sources.get(name, name)
        weights.recipes[str(value.name)] = _recipe(value, tables.get(name), traced.offsets.get(name, 0.0))
        value.const_value = None
    _check_matrices(model, weights)
    run_passes(model, weights)
    _name_rows(model)
    _set_defaults(model)
    kept = {name: recipe for name, recipe in weights.recipes.items() if name in model.graph.initializers}
    return LoweredGraph(model, tuple(kept.values()))


def _check_matrices(model: ir.Model, weights: Weights) -> None:
    """Every matrix must be the weight of a linear layer or of the token embedding; nothing else has a lowering."""
    for name, recipe in weights.recipes.items():
        if not isinstance(recipe, PlainRecipe) or len(recipe.shape) < 2:
            continue
        for node, index in model.graph.initializers[name].uses():
            if (node.op_type, index) not in ((PLACEHOLDER, 1), ("Gather", 0)) or len(recipe.shape) > 2:
                raise UnsupportedGraphError(
                    f"weight {name} {list(recipe.shape)} feeds {node.op_type}, not a linear layer"
                )
            if node.op_type == "Gather" and getattr(node.inputs[1], "name", None) != "input_ids":
                raise UnsupportedGraphError(f"weight {name} {list(recipe.shape)} is looked up by more than token ids")


def _recipe(value: ir.Value, table: Any, offset: float) -> Recipe:
    name = str(value.name)
    if table is not None:
        return ConstantRecipe(name, table)
    assert value.shape is not None
    return PlainRecipe(name, (name,), tuple(int(dim) for dim in value.shape), offset=offset)  # type: ignore[arg-type]


def _sources(model: Any) -> dict[str, str]:
    """The checkpoint's name of every parameter; tied ones have that of the embedding."""
    names = dict(model.named_parameters(remove_duplicate=False))
    embedding = model.get_input_embeddings().weight
    first = next(name for name, parameter in names.items() if parameter is embedding)
    return {name: first if parameter is embedding else name for name, parameter in names.items()}


def _name_rows(model: ir.Model) -> None:
    """From the cut by ``logits_from`` to the logits there are fewer rows than S; the trace did not know."""
    pending = [value for value in model.graph.inputs if value.name == "logits_from"]
    while pending:
        for node, _ in pending.pop().uses():
            output = node.outputs[0]
            if output.shape is not None:
                output.shape = ir.Shape([1, "wanted_rows", *list(output.shape)[2:]])
            pending.append(output)


def _set_defaults(model: ir.Model) -> None:
    """Optional inputs: an initializer of the same name is the value of an input that is not given."""
    defaults = {"tree_bias": np.zeros((1, 1, 1, 1), np.float32), "logits_from": np.zeros(1, np.int64)}
    for value in model.graph.inputs:
        if (default := defaults.get(str(value.name))) is not None:
            value.const_value = ir.tensor(default, name=str(value.name))
            model.graph.register_initializer(value)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter warns about operators it knows nothing of, which here is every contrib operator."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        stack.callback(logging.disable, before)
        yield
