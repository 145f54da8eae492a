"""The reference: the model's own HF code in fp32, which reads its weights from a source while it runs.

Parameters are never allocated. A linear layer multiplies by a few rows of its matrix at a time, an embedding reads the
rows of its tokens, and every other module (norms) has its parameters and stored buffers during its forward alone. So
any decoder runs in the memory of its activations, and everything around the layers (masks, rotary tables, scales,
softcaps) is the model's own. Of experts, those that a text uses are read, one at a time. Generation and caches are left
out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from export.sources.tensor_source import FloatArray, TensorSource

# Bytes of one tile of a matrix in float32: large enough for efficient products, small beside torch itself.
TILE_BYTES = 32 << 20


def reference_logits(config: PretrainedConfig, source: TensorSource, tokens: Sequence[int]) -> FloatArray:
    """Float32 logits ``[tokens, vocab]`` of the HF model of ``config`` with the weights of ``source``.

    A head that the configuration ties is the embedding; every other parameter must be in ``source``.
    """
    model = make_streamed(config, source)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits
    return np.asarray(logits[0].numpy(), np.float32)


def make_streamed(
    config: PretrainedConfig, source: TensorSource, make: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """The HF model of ``config``, or what ``make`` makes: without parameters, it reads ``source`` while it runs."""
    with _no_parameters():
        model: Any = (
            make()
            if make is not None
            else AutoModelForCausalLM.from_config(
                copy.deepcopy(config), dtype=torch.float32, attn_implementation="eager"
            )
        ).eval()
    aliases, stored = _aliases(model), source.names()
    for name, module in model.named_modules():
        own = {key: aliases.get(f"{name}.{key}", f"{name}.{key}") for key in module._parameters if key is not None}
        own = {key: tensor for key, tensor in own.items() if module._parameters[key] is not None}
        own |= {key: f"{name}.{key}" for key in module._buffers if f"{name}.{key}" in stored}
        if isinstance(module, nn.Linear):
            module.forward = _linear(source, **own)
        elif own and _routed(module):
            _read_experts(module, source, own)
        elif isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(_gather_rows(source, own["weight"]))
        elif own:
            # Some layers read the weight of their convolution, or use a module by other methods, and never call it.
            is_read = isinstance(module, nn.Conv1d) or any(True for _ in module.children())
            _borrow_parameters(module, source, own, model.get_submodule(name.rpartition(".")[0]) if is_read else module)
    return model


@contextmanager
def _no_parameters() -> Iterator[None]:
    """A context in which new modules have parameters on the meta device, and buffers (rotary tables) as usual."""
    register = nn.Module.register_parameter

    def register_without_storage(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = register_without_storage
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def _aliases(model: Any) -> dict[str, str]:
    """The stored names of parameters that are stored under another one: a tied head is the embedding."""
    names = {id(module): name for name, module in model.named_modules()}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    name = f"{names[id(head)]}.weight"
    tied = getattr(model.config, "tie_word_embeddings", False)
    return {name: f"{names[id(embedding)]}.weight"} if tied else {}


def _linear(source: TensorSource, weight: str, bias: str | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    """The forward of a linear layer, a tile of rows at a time."""
    rows, columns = source.shape(weight)
    tile = max(1, TILE_BYTES // (4 * columns))

    def forward(values: torch.Tensor) -> torch.Tensor:
        out = values.new_empty(*values.shape[:-1], rows)
        for first in range(0, rows, tile):
            part = torch.from_numpy(source.read(weight, first, min(rows, first + tile)))
            out[..., first : first + len(part)] = values @ part.T
        return out if bias is None else out.add_(torch.from_numpy(source.read(bias)))

    return forward


def _gather_rows(source: TensorSource, weight: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """A hook that gives an embedding the rows of the tokens in its input alone, and renumbers the tokens."""

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        ids, positions = torch.unique(inputs[0], return_inverse=True)
        rows = [source.read(weight, token, token + 1) for token in ids.tolist()]
        module.weight = nn.Parameter(torch.from_numpy(np.concatenate(rows)), requires_grad=False)
        module.padding_idx = None  # gradients alone need it, and it numbers rows that are not here
        return (positions, *inputs[1:])

    return hook


def _routed(module: Any) -> bool:
    """Whether a module is the experts of a layer, whose forward takes rows, their experts and weights."""
    return hasattr(module, "is_transposed") and not hasattr(module, "weight")


def _read_experts(module: Any, source: TensorSource, stacks: dict[str, str]) -> None:
    """Lets experts run one after another, each as if it were the only one there is."""
    own = type(module).forward.__wrapped__
    empty = dict(module._parameters)

    def forward(rows: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(rows)
        for expert in experts.unique().tolist():
            for key, name in stacks.items():
                matrix = torch.from_numpy(source.read(name, expert, expert + 1))
                module._parameters[key] = nn.Parameter(matrix, requires_grad=False)
            users, places = torch.where(experts == expert)
            alone = torch.zeros(len(users), 1, dtype=experts.dtype)
            out[users] += own(module, rows[users], alone, weights[users, places][:, None])
        module._parameters.update(empty)
        return out

    module.num_experts = 1
    module.forward = forward


def _borrow_parameters(module: nn.Module, source: TensorSource, own: dict[str, str], user: nn.Module) -> None:
    """Reads a module's own parameters and buffers before each forward of ``user`` and drops the parameters
    afterwards."""
    empty = dict(module._parameters)

    def fill(_: nn.Module, inputs: Any) -> None:
        for key, name in own.items():
            values = torch.from_numpy(source.read(name))
            if key in empty:
                module._parameters[key] = nn.Parameter(values, requires_grad=False)
            else:
                module._buffers[key] = values

    def drop(_: nn.Module, inputs: Any, output: Any) -> None:
        module._parameters.update(empty)

    user.register_forward_pre_hook(fill)
    user.register_forward_hook(drop)
