"""A model without memory for its parameters: only their names and shapes are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from export.sources.model_shape import ArchitectureError
from export.untrusted import first_line


def empty_model(config: Any, make: Callable[[], Any] | None = None) -> Any:
    """transformers' causal language model of ``config``, or what ``make`` makes, on the meta device.

    ArchitectureError if there can be none: its code raises anything for layers that it does not know.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config) if make is None else make()
    except Exception as error:
        raise ArchitectureError(f"{config.model_type}: {_reason(config, error)}") from error


def _reason(config: Any, error: Exception) -> str:
    if isinstance(error, KeyError) and error.args[0] in (getattr(config, "layer_types", None) or ()):
        return f"its code in transformers has no layers of the kind {error.args[0]!r}, which its config names"
    return f"transformers cannot build it ({first_line(error)})"
