"""Measures how much each column of a weight matters: second moments of every linear layer's inputs on a text.

The reference model runs one decoder layer at a time with streamed weights (``sources.streamed_model``), so memory holds
the hidden states of the text and one layer's moments. ``search`` weighs columns by their mean square (the importance
matrix of llama.cpp); ``gptq`` needs correlations within windows of columns. Activations are those of the unquantized
model. A head that is tied to the embedding is left out, because its weights are inputs as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from export.manifest import PocketspecError
from export.sources.config_names import read_size
from export.sources.streamed_model import make_streamed
from export.sources.tensor_source import FloatArray, TensorSource

Tokens = npt.NDArray[np.int64]

WINDOW = 1024  # columns whose correlations gptq uses: a mebi of floats for each window
_DAMPING = 0.01  # this share of the mean diagonal is added to it, as in the GPTQ paper
_ROWS, _LENGTH = 16, 256  # stretches of text and their tokens: four times as many gained stories260k nothing
_CHARACTERS = 16  # more characters than any token is likely to have: 3 to 5 are usual


class CalibrationError(PocketspecError, ValueError):
    """A calibration text that is too short, or a model whose layers cannot be run one by one."""


def read_tokens(tokenizer: Path, text: Path, positions: int, rows: int = _ROWS) -> Tokens:
    """The tokens of at most ``rows`` stretches, evenly spread over a text, int64 ``[rows, length]``.

    ``tokenizer`` is a tokenizer.json; ``length`` is 256, or ``positions`` if that is less.
    """
    from tokenizers import Tokenizer

    length = min(_LENGTH, positions)
    content, encoder = text.read_text(encoding="utf-8"), Tokenizer.from_file(str(tokenizer))
    rows = max(1, min(rows, len(content) // (_CHARACTERS * length)))
    starts = np.linspace(0, max(0, len(content) - _CHARACTERS * length), rows).astype(int)
    found = [encoder.encode(content[start : start + _CHARACTERS * length]).ids[:length] for start in starts]
    if (shortest := min(map(len, found))) < length:
        raise CalibrationError(
            f"{text} gives {shortest} tokens in a row, calibration needs {length}; give a longer text"
        )
    return np.asarray(found, np.int64)


class WeightImportance(Mapping[str, FloatArray]):
    """The importance that ``Quantizer.quantize`` takes, by the name of the weight; computed layer by layer on access.

    For ``search`` it is the mean square ``[columns]`` of a linear layer's inputs, for ``gptq`` the factors
    ``[columns, window]``. Access in the order of the layers runs the model once.
    """

    def __init__(self, config: Any, source: TensorSource, tokens: Tokens, method: str = "gptq") -> None:
        if method not in ("search", "gptq"):
            raise CalibrationError(f"method {method!r} takes no calibration; use gptq or search, or drop the text")
        self._window = WINDOW if method == "gptq" else 1
        self._model = make_streamed(config, source)
        self._tokens = torch.from_numpy(tokens)
        self._layers, self._path = _decoder_layers(self._model)
        self._names = {
            f"{self._path}.{index}.{name}.weight": index
            for index, layer in enumerate(self._layers)
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        }
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._hidden: list[torch.Tensor] = []
        self._next = 0
        self._ready: dict[str, FloatArray] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> FloatArray:
        layer = self._names[name]
        if not self._calls or layer < self._next - 1:
            self._start()
        while self._next <= layer:
            self._advance()
        moments = self._ready[name]
        return moments[:, 0] if self._window == 1 else compensation(moments)

    @torch.inference_mode()
    def _start(self) -> None:
        """Records the hidden states before the first layer and every layer's arguments, with layers that do nothing."""
        self._hidden, self._next = [], 0

        def record(hidden: torch.Tensor, *rest: Any, **arguments: Any) -> torch.Tensor:
            self._calls.append((rest, arguments))
            if len(self._calls) == len(self._layers):
                self._hidden.append(hidden)
                raise _LayersDone
            return hidden

        forwards = [layer.forward for layer in self._layers]
        try:
            for layer in self._layers:
                layer.forward = record
            for row in self._tokens:
                self._calls = []
                with suppress(_LayersDone):
                    self._model(input_ids=row[None], use_cache=False)
        finally:
            for layer, forward in zip(self._layers, forwards, strict=True):
                layer.forward = forward

    @torch.inference_mode()
    def _advance(self) -> None:
        """Runs the next layer over the text and keeps the moments of its linear layers' inputs."""
        layer, (rest, arguments) = self._layers[self._next], self._calls[self._next]
        sums: dict[str, torch.Tensor] = {}
        handles = [
            module.register_forward_pre_hook(
                _accumulate(sums, f"{self._path}.{self._next}.{name}.weight", self._window)
            )
            for name, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        ]
        for row, hidden in enumerate(self._hidden):
            out = layer(hidden, *rest, **arguments)
            self._hidden[row] = out[0] if isinstance(out, tuple) else out
        for handle in handles:
            handle.remove()
        self._ready = {name: (total / self._tokens.numel()).numpy() for name, total in sums.items()}
        self._next += 1


class _LayersDone(Exception):  # noqa: N818 - not an error: the rest of the forward is not needed
    """Ends a forward after the last layer."""


def compensation(moments: FloatArray) -> FloatArray:
    """The factors of ``quantize_compensated`` from second moments, both ``[columns, window]``.

    Window by window U, upper triangular, with ``U^T U`` the inverse of the damped moments: where they are ``M M^T``
    with M upper triangular, U is the inverse of M.
    """
    columns, window = moments.shape
    factors = np.zeros_like(moments)
    for start in range(0, columns, window):
        size = min(window, columns - start)
        square = torch.from_numpy(moments[start : start + size, :size]).double()
        mean = float(square.diagonal().mean()) or 1.0
        square = square + torch.eye(size, dtype=torch.float64) * (_DAMPING * mean)
        lower = torch.linalg.cholesky(square.flip(0, 1)).flip(0, 1)
        identity = torch.eye(size, dtype=torch.float64)
        factors[start : start + size, :size] = torch.linalg.solve_triangular(lower, identity, upper=True).numpy()
    return factors


def _accumulate(sums: dict[str, torch.Tensor], name: str, window: int) -> Any:
    """A hook that adds the products of a linear layer's inputs within windows of columns, ``[columns, window]``."""

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        flat = inputs[0].reshape(-1, inputs[0].shape[-1])
        columns = flat.shape[1]
        if name not in sums:
            sums[name] = torch.zeros(columns, min(window, columns))
        if window == 1:
            sums[name] += flat.square().sum(0)[:, None]
            return
        for start in range(0, columns, window):
            part = flat[:, start : start + window]
            sums[name][start : start + window, : part.shape[1]] += part.T @ part

    return hook


def _decoder_layers(model: Any) -> tuple[list[Any], str]:
    """The decoder's layers and the path of their list, such as ``model.layers``."""
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == read_size(model.config, "layers"):
            return list(module), path
    raise CalibrationError(
        f"{model.config.model_type}: no list of decoder layers to calibrate; drop --calibration-text"
    )
