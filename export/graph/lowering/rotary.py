"""Lowers rotary embeddings to ``com.microsoft::RotaryEmbedding``, one for queries and one for keys.

The attention operator could rotate as well, but ignores the positions of a tree on prompts and on some devices. Tables
of sines and cosines come from the model's own rotary module, run for all positions, so any scaling is the model's. Its
``apply_rotary_pos_emb`` is compared with the operator's formula on random numbers. If they differ, or if the model uses
its cosines otherwise, the model's own code is exported instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.onnx.ops import symbolic

APPLY = "apply_rotary_pos_emb"
Repeat = Literal["halves", "pairs", "once"]
_CHUNK = 4096


class RotaryMismatchError(Exception):
    """This model's rotary embedding is not what the operator computes; its own code must be exported."""


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines, float32 ``[positions, rotary_size / 2]``, and how the model's own code repeats them."""

    cos: npt.NDArray[np.float32]
    sin: npt.NDArray[np.float32]
    repeat: Repeat


@dataclass(frozen=True)
class Angles:
    """Marks the cosines, or the sines, that a rotary module returns for the positions of a step."""

    owner: LoweredRotary
    key: Any
    position_ids: torch.Tensor
    role: str

    def __getattr__(self, name: str) -> Any:
        raise RotaryMismatchError(f"the model uses {name!r} of its cosines or sines")


class LoweredRotary(nn.Module):
    """Replaces a rotary module. Its first, fake run makes the tables; later runs use them as buffers."""

    def __init__(self, original: nn.Module, positions: int, of_step: Callable[[], torch.Tensor] | None = None) -> None:
        super().__init__()
        self.of_step = of_step
        self.original = [original]  # in a list: not a submodule, so that its buffers stay out of the graph
        self.positions = positions
        self.tables: dict[Any, RotaryTable] = {}
        self.layouts: dict[Any, bool] = {}

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[Angles, Angles]:
        """Two markers in place of cosines and sines, for ``position_ids`` ``[1, S]``.

        Models that see pictures have positions for time, height and width, ``[3, 1, S]``: in a text these are equal,
        and those ``of_step`` stand for all three.
        """
        if position_ids.ndim == 3 and self.of_step is not None:
            position_ids = self.of_step()
        key = (args, tuple(sorted(kwargs.items())))
        if key not in self.tables:
            with unset_fake_temporarily():
                self.tables[key] = make_table(self.original[0], self.positions, args, kwargs)
            for part in ("cos", "sin"):
                buffer = torch.empty(getattr(self.tables[key], part).shape, dtype=torch.float32)
                self.register_buffer(self.buffer_name(key, part), buffer, persistent=False)
        return Angles(self, key, position_ids, "cos"), Angles(self, key, position_ids, "sin")

    def buffer_name(self, key: Any, part: str) -> str:
        """The buffer (hence initializer) of a table: ``cos`` or, where a model has several tables, ``cos_1``."""
        index = list(self.tables).index(key)
        return f"{part}_{index}" if index else part

    def layout(self, key: Any, apply: Callable[..., Any], head_size: int) -> bool:
        """Whether pairs are neighbours (interleaved) in ``apply``'s heads; RotaryMismatchError if neither fits."""
        case = (key, apply, head_size)
        if case not in self.layouts:
            with unset_fake_temporarily():
                self.layouts[case] = find_layout(self.tables[key], apply, head_size)
        return self.layouts[case]


def make_table(module: nn.Module, positions: int, args: Any, kwargs: Any) -> RotaryTable:
    """The table of ``module`` for positions 0 to ``positions`` - 1, computed a few thousand at a time."""
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    x = torch.zeros(1, 1, 1)
    with torch.no_grad():
        for first in range(0, positions, _CHUNK):
            ids = torch.arange(first, min(first + _CHUNK, positions))[None]
            cos, sin = module(x, ids, *args, **kwargs)
            if not first:
                repeat = _find_repeat(cos, sin)
                halves = slice(0, cos.shape[-1] // 2)
                pick = {"halves": halves, "pairs": slice(0, None, 2), "once": slice(None)}[repeat]
            parts.append((cos[0, :, pick].clone(), sin[0, :, pick].clone()))
    cos_rows, sin_rows = (torch.cat(rows).numpy() for rows in zip(*parts, strict=True))
    return RotaryTable(cos_rows, sin_rows, repeat)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """The operator's formula: x ``[..., rows, head_size]``, cos and sin ``[rows, rotary_size / 2]``."""
    size = 2 * cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    pair = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    first, second = pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin
    joined = torch.stack((first, second), -1).flatten(-2) if interleaved else torch.cat((first, second), -1)
    return torch.cat((joined, rest), -1)


def find_layout(table: RotaryTable, apply: Callable[..., Any], head_size: int) -> bool:
    """Whether the operator's ``interleaved`` must be set to compute what ``apply`` does with this table."""
    rows = torch.from_numpy(np.linspace(0, len(table.cos) - 1, 5).astype(np.int64))
    cos, sin = torch.from_numpy(table.cos)[rows], torch.from_numpy(table.sin)[rows]
    query, key = torch.randn(1, 3, len(rows), head_size), torch.randn(1, 2, len(rows), head_size)
    angles = _repeated(cos, table.repeat), _repeated(sin, table.repeat)
    try:
        results = [apply(x, *angles) for x in (query, key)] if _takes_one(apply) else apply(query, key, *angles)
    except RuntimeError as error:
        raise RotaryMismatchError(f"{APPLY} takes other cosines ({error})") from error
    for interleaved in (False, True):
        expected = [rotate(x, cos, sin, interleaved) for x in (query, key)]
        if all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(results, expected, strict=True)):
            return interleaved
    raise RotaryMismatchError(f"{APPLY} computes something else")


@contextmanager
def rotary_lowered(namespaces: Sequence[Any]) -> Iterator[None]:
    """A context in which ``apply_rotary_pos_emb`` of the modules ``namespaces`` emits the operator."""
    with ExitStack() as stack:
        for namespace in namespaces:
            if (original := getattr(namespace, APPLY, None)) is not None:
                stack.enter_context(mock.patch.object(namespace, APPLY, _apply_with(original)))
        yield


def find_rotary(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of ``model`` that make cosines and sines: those that keep inverse frequencies."""
    frequencies = (name.rpartition(".") for name, _ in model.named_buffers() if name.endswith("inv_freq"))
    return {owner: model.get_submodule(owner) for owner in dict.fromkeys(name for name, _, _ in frequencies)}


def _takes_one(apply: Callable[..., Any]) -> bool:
    """Whether ``apply`` turns queries and keys one by one (Gemma 4), not both at once."""
    return "k" not in inspect.signature(apply).parameters


def _apply_with(original: Callable[..., Any]) -> Callable[..., Any]:
    def apply_one(x: torch.Tensor, cos: object, sin: object, unsqueeze_dim: int = 1) -> Any:
        if not isinstance(cos, Angles):
            return original(x, cos, sin, unsqueeze_dim)
        if not _are_a_pair(cos, sin) or x.ndim != 4 or unsqueeze_dim not in (1, 2):
            raise RotaryMismatchError(f"{APPLY} is called in a way of this model's own")
        if unsqueeze_dim == 1:
            return _rotary(x, cos, original)
        return _rotary(x.transpose(1, 2), cos, original).transpose(1, 2)

    def apply(q: torch.Tensor, k: torch.Tensor, cos: object, sin: object, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(cos, Angles):
            return original(q, k, cos, sin, *args, **kwargs)
        if not _are_a_pair(cos, sin) or args or kwargs or q.ndim != 4:
            raise RotaryMismatchError(f"{APPLY} is called in a way of this model's own")
        return _rotary(q, cos, original), _rotary(k, cos, original)

    return apply_one if _takes_one(original) else apply


def _are_a_pair(cos: Angles, sin: object) -> bool:
    return isinstance(sin, Angles) and (cos.role, sin.role) == ("cos", "sin") and cos.key == sin.key


def _rotary(x: torch.Tensor, angles: Angles, apply: Callable[..., Any]) -> torch.Tensor:
    """The operator on heads ``[1, heads, S, head_size]``, in three axes."""
    _, heads, rows, size = x.shape
    owner, key = angles.owner, angles.key
    cos, sin = (owner.get_buffer(owner.buffer_name(key, part)) for part in ("cos", "sin"))
    interleaved = owner.layout(key, apply, size)
    rotary_size = 2 * cos.shape[-1]
    attributes = {"interleaved": int(interleaved), "num_heads": heads}
    attributes["rotary_embedding_dim"] = rotary_size if rotary_size < size else 0
    flat = x.transpose(1, 2).reshape(1, rows, heads * size)
    turned = symbolic(
        "com.microsoft::RotaryEmbedding",
        [flat, angles.position_ids, cos, sin],
        attributes,
        dtype=x.dtype,
        shape=flat.shape,
        version=1,
    )
    return turned.reshape(1, rows, heads, size).transpose(1, 2)


def _repeated(rows: torch.Tensor, repeat: Repeat) -> torch.Tensor:
    """A table's rows as the model's rotary module returns them, ``[1, rows, rotary_size]`` if it repeats them."""
    if repeat == "once":
        return rows[None]
    return (rows.repeat_interleave(2, -1) if repeat == "pairs" else torch.cat((rows, rows), -1))[None]


def _find_repeat(cos: torch.Tensor, sin: torch.Tensor) -> Repeat:
    """Whether HF gives every angle as two equal halves, beside itself, or once."""
    if cos.shape[-1] % 2 == 0:
        if all(torch.equal(*table.chunk(2, -1)) for table in (cos, sin)):
            return "halves"
        if all(torch.equal(table[..., 0::2], table[..., 1::2]) for table in (cos, sin)):
            return "pairs"
    return "once"
