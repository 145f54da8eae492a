"""A model's structure without memory for its weights, from its configuration alone."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from export.graph.lowering.attention import IMPLEMENTATION
from export.heads.head import Head
from export.sources.model_shape import ArchitectureError
from export.untrusted import first_line


def build_model(
    config: transformers.PretrainedConfig, head: Head | None = None, logits_width: int | None = None
) -> tuple[nn.Module, FakeTensorMode]:
    """The model of ``config``, or the ``head`` around it, without memory for its parameters.

    Buffers that are in no checkpoint have their values. The model's output matrix has ``logits_width`` rows, if that is
    given, and must not be tied then; a head knows of how many tokens it has logits.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with mode:
            model: Any = (
                head.build(IMPLEMENTATION)
                if head is not None
                else transformers.AutoModelForCausalLM.from_config(
                    config, dtype=torch.float32, attn_implementation=IMPLEMENTATION, trust_remote_code=False
                )
            )
    except Exception as error:
        if isinstance(error, KeyError) and error.args == (IMPLEMENTATION,):
            raise ArchitectureError(
                "its code in transformers has kinds of attention of its own, in whose place ours cannot be put;"
                " it is not supported"
            ) from None
        raise ArchitectureError(f"transformers cannot build it for our attention ({first_line(error)})") from error
    _fill_buffers(model)
    if logits_width is not None and head is None:
        whole = model.get_output_embeddings()
        with mode:
            model.set_output_embeddings(nn.Linear(whole.in_features, logits_width, whole.bias is not None))
    return model.eval(), mode


def _fill_buffers(model: Any) -> None:
    """Gives buffers that are in no checkpoint (rotary frequencies, embedding scales) the values of HF's own code."""
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
            _owner(model, path)._init_weights(module)
        for name in missing:
            value = getattr(module, name)
            if bool((value != value).any() if value.dtype.is_floating_point else (value == -1).any()):
                raise ArchitectureError(f"buffer {name} of {path} has no value that could be exported")


def _owner(model: Any, path: str) -> Any:
    """The innermost model of transformers that holds the module at ``path``: it knows how to fill its buffers."""
    while path and not hasattr(model.get_submodule(path), "_init_weights"):
        path = path.rpartition(".")[0]
    return model.get_submodule(path)
