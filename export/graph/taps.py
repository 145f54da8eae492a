"""Hidden rows of a decoder as outputs of its graph, for drafters that read them.

A tap is the stream between two layers, which the graph computes anyway, so that nothing is computed for it. The final
norm is left to the reader: where its output is needed, a native product could not begin with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from export.manifest import Tap
from export.sources.model_shape import ArchitectureError


def tap_name(tap: Tap) -> str:
    """The output of a graph that has the hidden rows after ``tap`` layers, float32 ``[1, rows, hidden]``."""
    return f"hidden_states.{tap}"


@contextmanager
def tapped(model: Any, taps: Sequence[Tap]) -> Iterator[dict[int, torch.Tensor]]:
    """A context in which every forward of ``model`` puts its hidden rows at ``taps`` into what is yielded."""
    found: dict[int, torch.Tensor] = {}
    layers = getattr(getattr(model, "model", None), "layers", None)
    if taps and (layers is None or max(taps) > len(layers)):
        raise ArchitectureError("its layers are not where drafters that read hidden rows look for them")
    with ExitStack() as stack:
        for tap in taps:
            assert layers is not None
            if tap < len(layers):
                handle = layers[tap].register_forward_pre_hook(_before(found, tap), with_kwargs=True)
            else:
                handle = layers[tap - 1].register_forward_hook(_after(found, tap))
            stack.callback(handle.remove)
        yield found


def _before(found: dict[int, torch.Tensor], tap: Tap) -> Any:
    def hook(_: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        found[tap] = inputs[0] if inputs else named["hidden_states"]

    return hook


def _after(found: dict[int, torch.Tensor], tap: Tap) -> Any:
    def hook(_: Any, __: Any, output: Any) -> None:
        found[tap] = output[0] if isinstance(output, tuple) else output

    return hook
