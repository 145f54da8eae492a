"""Saves what an engine holds to a file; the format is in this folder's README.

Rows go from the caches to the file, so that saving takes no memory beside the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime as ort

from export.untrusted import UntrustedError
from runtime.decoding.context import Context, shared_prefix
from runtime.decoding.sampling import SamplingParams
from runtime.drafters.confidence import ConfidenceCalibration
from runtime.sessions.errors import SessionError
from runtime.sessions.held import HeldLevel
from runtime.sessions.record import (
    TOKENS,
    CalibrationRecord,
    LevelRecord,
    SessionRecord,
    dump_metadata,
    parse_metadata,
)
from runtime.sessions.tensor_file import write_tensors


@dataclass(frozen=True)
class EngineState:
    """What of an engine is saved: its open levels, the target first, the committed tokens, and what it has learnt.

    ``vocabulary`` is the hash of the target's, ``vocab_size`` says how many tokens have an embedding.
    """

    levels: Sequence[HeldLevel]
    context: Context
    calibrations: Mapping[str, ConfidenceCalibration]
    vocabulary: str
    vocab_size: int

    @property
    def target(self) -> HeldLevel:
        """The level whose rows must be usable."""
        return self.levels[0]

    def limited_to(self, tokens: Sequence[int]) -> EngineState:
        """What the conversation of ``tokens`` can use of it, and nothing of others that are still held."""
        context, shared = self.context, shared_prefix(self.context.tokens, tokens)
        if shared < len(tokens):
            context = Context(context.capacity, SamplingParams())
            context.hold(self.context.tokens[:shared])
        return replace(self, context=context, levels=[level.limited_to(context) for level in self.levels])


def save_session(path: Path, state: EngineState, conversation: Mapping[str, Any] | None) -> None:
    """Writes ``state`` and ``conversation`` (JSON data) to ``path``, all of it or nothing; SessionError."""
    levels = [
        LevelRecord(held.name, "kv", len(held.tokens), len(held.arrays), held.identity, held.behind)
        for held in state.levels
    ]
    learnt = {name: each.observed() for name, each in state.calibrations.items() if not each.is_blank}
    record = SessionRecord(
        tokens=len(state.context),
        vocabulary=state.vocabulary,
        left_out=state.context.first,
        sampling=state.context.sampling,
        levels=tuple(levels),
        calibrations={name: CalibrationRecord(*observed) for name, observed in learnt.items()},
        versions={"onnxruntime": ort.__version__},
    )
    try:
        metadata = dump_metadata(record, conversation)
        parse_metadata(metadata)  # what could not be read is not written
    except (UntrustedError, TypeError, ValueError) as error:
        raise SessionError(f"cannot save the session to {path}: it {error}") from None
    write_tensors(path, metadata, _arrays(state, levels))


def _arrays(state: EngineState, levels: Sequence[LevelRecord]) -> list[tuple[str, npt.NDArray[Any]]]:
    """Tokens, then keys and values; those of larger types first, so that all are aligned."""
    tokens: list[tuple[str, npt.NDArray[Any]]] = [(TOKENS, state.context.tokens)]
    rows = list[tuple[str, npt.NDArray[Any]]]()
    for level, held in zip(levels, state.levels, strict=True):
        tokens.append((level.tokens_name, held.tokens))
        rows += [(level.array_name(number), array) for number, array in enumerate(held.arrays)]
    return [*tokens, *sorted(rows, key=lambda item: -item[1].dtype.itemsize)]
