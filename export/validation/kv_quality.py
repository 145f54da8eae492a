"""Measures perplexity and speed of every KV type of a level, with the graphs as they will run.

Types take turns, a few steps each, so that other work of the machine affects all alike. The context of timed steps is
filled with copies of the text's rows: their values do not matter, but they must be real memory. Large models run in a
process of their own, without torch (see ``isolated``), with one KV type open at a time.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from export.bundle_files import sha256_of
from export.manifest import PACKED_FILE_NAME, KvEffect, Level, PocketspecError
from export.perplexity import perplexity, surprises

if TYPE_CHECKING:
    from runtime.kernels.backends import Kernels, Native
    from runtime.models.ort_model import OrtModel

# Rows of context of the timed steps. With 4,096 rows a KV type gains or loses about four times as much.
ROWS = 1024
# The most weights of a portable session, which copies them.
PORTABLE_BYTES = 256 << 20
# The most weights that the sessions of all KV types together may map or copy.
TOGETHER_BYTES = 512 << 20
_CHUNK = 32
_TURNS, _STEPS = 15, 5  # of every type; the first step of a turn finds cold caches and does not count
_MIN_TURNS, _SECONDS = 3, 6.0


class EffectsError(PocketspecError, RuntimeError):
    """KV types that cannot be measured on this machine; the message says why."""


def measure_effects(folder: Path, graph: str, level: Level, tokens: Sequence[int]) -> dict[str, KvEffect]:
    """The effects of the KV types of ``level``, which lies in ``folder``, on the text ``tokens``.

    They are measured with the native kernels if those run here, else with ONNX Runtime's. ``native.data`` is made if it
    is missing, and stays. EffectsError if measuring needs too much memory.
    """
    kernels = open_kernels(folder, graph, level)
    native = level.native if kernels.name == "native" else None
    kinds = level.graphs if native is None else native.graphs
    size = level.weight_bytes if native is None else native.data_bytes
    rows = min(level.shape.positions - 1, ROWS)
    random = level.source.kind == "random-weights"
    text = tokens[:_CHUNK] if random else tokens
    models = Models(lambda kind: open_model(kernels, folder, level, kind, max(rows, len(tokens))), size)
    perplexities, seconds = _measure(models, tuple(kinds), text, rows)
    return {
        kind: KvEffect(
            speed=seconds["fp32"] / seconds[kind],
            rows=rows,
            kernels=kernels.name,
            perplexity=None if random else perplexities[kind] / perplexities["fp32"],
        )
        for kind in kinds
        if kind != "fp32"
    }


class Models:
    """One model for every KV type, over weights of ``size`` bytes that each session maps or copies.

    All stay open if that is little memory; else one at a time is open, for each use anew.
    """

    def __init__(self, open_kind: Callable[[str], OrtModel], size: int) -> None:
        self._open, self._size = open_kind, size
        self._kept: dict[str, OrtModel] = {}

    @contextmanager
    def use(self, kind: str, kinds: int) -> Iterator[OrtModel]:
        """A context with the model for KV type ``kind``; ``kinds`` is the number of types."""
        if self._size * kinds <= TOGETHER_BYTES:
            if kind not in self._kept:
                self._kept[kind] = self._open(kind)
            yield self._kept[kind]
            return
        try:
            yield self._open(kind)
        finally:
            gc.collect()  # before the next one opens


def open_kernels(folder: Path, graph: str, level: Level) -> Kernels:
    """The kernels that the runtime would choose here, with ``native.data`` if they need it.

    EffectsError if a session would copy too much.
    """
    from runtime.kernels.backends import PORTABLE

    native = _native_kernels(folder, graph, level)
    if native is None and level.weight_bytes > PORTABLE_BYTES:
        raise EffectsError(
            f"ONNX Runtime's own kernels would copy {level.weight_bytes:,} bytes of weights for every session, at most"
            f" {PORTABLE_BYTES:,} are copied; export with int4 or int8 weights where native kernels run"
        )
    return native or PORTABLE


def _native_kernels(folder: Path, graph: str, level: Level) -> Native | None:
    from runtime.kernels.backends import Native
    from runtime.kernels.library import open_library
    from runtime.kernels.weights.packing import pack

    if level.native is None:
        return None
    try:
        if not (library := open_library()).is_fast:
            return None
        if not (folder / PACKED_FILE_NAME).is_file():
            pack(folder, sha256_of(folder / f"{graph}.data"))
    except PocketspecError:
        return None
    return Native(library, folder)


def open_model(kernels: Kernels, folder: Path, level: Level, kind: str, rows: int, hidden_rows: int = 0) -> OrtModel:
    """``level`` with a KV cache of ``rows`` rows of type ``kind``, for forwards of up to 32 rows.

    Of its hidden rows the last ``hidden_rows`` are kept.
    """
    from runtime.bundle.draft_vocabulary import read_logit_tokens
    from runtime.models.exact_widths import any_width
    from runtime.models.ort_model import OrtModel, open_session, state_sizes

    session, states = open_session(kernels.graph(folder, level, kind), None, kernels), state_sizes(level, _CHUNK)
    return OrtModel(
        session,
        rows + 1,
        _CHUNK,
        _CHUNK,
        any_width(_CHUNK),
        kernels=kernels,
        states=states,
        hidden_rows=hidden_rows,
        logit_tokens=read_logit_tokens(folder, level),
    )


def _read(model: OrtModel, tokens: Sequence[int]) -> float:
    """The perplexity of ``tokens``, whose rows are in the cache afterwards."""
    found: list[float] = []
    known = None if model.logit_tokens is None else model.logit_tokens.tolist()
    for start in range(0, len(tokens), _CHUNK):
        logits = model.forward(tokens[start : start + _CHUNK]).logits
        found += surprises(logits, tokens[start + 1 : start + 1 + len(logits)], known)
    return perplexity(found)


def _fill(model: OrtModel, rows: int) -> None:
    """Fills the cache up to ``rows`` rows by repeating those it has."""
    model.cache.rollback(min(model.cache.length, rows))
    held = model.cache.length
    for array in model.cache.arrays:
        array[:, :, held:rows] = array[:, :, np.arange(held, rows) % max(held, 1)]
    model.cache.append(np.resize(model.cache.tokens, rows - held))


def _measure(
    models: Models, kinds: Sequence[str], text: Sequence[int], rows: int
) -> tuple[dict[str, float], dict[str, float]]:
    """By KV type, the perplexity of ``text`` and the median seconds of a plain step behind ``rows`` rows."""
    perplexities: dict[str, float] = {}
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    began = perf_counter()
    for turn in range(_TURNS):
        if turn >= _MIN_TURNS and perf_counter() - began > _SECONDS:
            break
        for kind in kinds:
            with models.use(kind, len(kinds)) as model:
                if kind not in perplexities:
                    perplexities[kind] = _read(model, text)
                elif not model.cache.length:
                    model.prefill(text[:_CHUNK])
                _fill(model, rows)
                found[kind] += [_step_seconds(model, rows) for _ in range(_STEPS)][1:]
                del model  # the session ends with its last name
    return perplexities, {kind: median(seconds) for kind, seconds in found.items()}


def _step_seconds(model: OrtModel, rows: int) -> float:
    started = perf_counter()
    model.forward((1,))
    seconds = perf_counter() - started
    model.cache.rollback(rows)
    return seconds
