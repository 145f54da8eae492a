"""Makes an engine hold what a session file has. The file may be damaged, or a stranger's.

All that it says is compared with its size and with the open levels before anything is allocated or read into them, and
they hold the rows only if the file's hash is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.untrusted import UntrustedError, shown
from runtime.arrays import TokenArray
from runtime.decoding.sampling import SamplingParams
from runtime.sessions.errors import OtherSessionError, SessionError
from runtime.sessions.held import READ_AGAIN, HeldLevel
from runtime.sessions.record import TOKENS, LevelRecord, SessionRecord, parse_metadata
from runtime.sessions.saving import EngineState
from runtime.sessions.tensor_file import Tensor, TensorFile, open_tensors


@dataclass(frozen=True)
class Session:
    """A session that was restored: a prompt that begins with ``tokens`` continues it, given ``left_out``.

    ``sampling`` was in force last. ``reread`` says why the rows could not be used, so that the next answer reads the
    tokens again; None if they are used. Tokens that cannot be read again here are left out: more than the context
    holds, or without ``same_vocabulary``.
    ``conversation`` is JSON data as it was saved, and not checked.
    """

    tokens: tuple[int, ...]
    left_out: int
    sampling: SamplingParams
    conversation: Any = None
    reread: str | None = None
    same_vocabulary: bool = True


def restore_session(path: Path, state: EngineState, reread: bool) -> Session:
    """Makes ``state`` hold the session at ``path``.

    SessionError if there is none that is sound; a damage that is found late leaves the levels empty.
    OtherSessionError if its rows cannot be used here; with ``reread`` nothing changes then, and its tokens are left to
    the next answer, if they can be read here at all.
    """
    with _explained(path), open_tensors(path) as file:
        record, conversation = parse_metadata(file.metadata)
        _check_names(file.tensors, record)
        reason = _why_other(state, record)
        if reason is None:
            tokens = _take_over(file, record, state)
        elif _may_reread(state, record, conversation) and reread:
            tokens = _read_tokens(file, record, state)
        else:
            remedy = READ_AGAIN if _may_reread(state, record, conversation) else "begin a new one"
            raise OtherSessionError(f"the session {path} cannot be continued here: {reason}", remedy)
        same = record.vocabulary == state.vocabulary
        return Session(tuple(tokens.tolist()), record.left_out, record.sampling, conversation, reason, same)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SessionError(f"there is no session {path}") from None
    except UntrustedError as error:
        raise SessionError(f"the session {path} {error}; begin a new one") from None


def _check_names(tensors: Mapping[str, Tensor], record: SessionRecord) -> None:
    """UntrustedError unless the file has exactly the arrays of ``record``, and its tokens are as many as that says."""
    sizes = {TOKENS: record.tokens, **{level.tokens_name: level.rows for level in record.levels}}
    count = len(sizes) + sum(level.arrays for level in record.levels)
    if count > len(tensors):  # before any of them is named: a file of a few bytes may claim millions
        raise UntrustedError(f"has {len(tensors):,} arrays, and its levels {count:,}")
    names = {level.array_name(number) for level in record.levels for number in range(level.arrays)}
    if odd := (sizes.keys() | names) ^ tensors.keys():
        kind = "lacks" if min(odd) not in tensors else "has an unknown"
        raise UntrustedError(f"{kind} array {shown(min(odd))}")
    for name, size in sizes.items():
        if tensors[name].dtype != np.int32 or tensors[name].shape != (size,):
            raise UntrustedError(f"has an array {shown(name)} that is not {size:,} tokens")


def _why_other(state: EngineState, record: SessionRecord) -> str | None:
    """Why the target cannot hold the session; None if it can."""
    level = next((level for level in record.levels if level.name == state.target.name), None)
    if level is None or (fault := state.target.fault(level.identity, level.rows, level.behind)) is not None:
        return "it is of another model" if level is None else fault
    if record.vocabulary != state.vocabulary:
        return "its tokens are of another tokenizer"
    return state.target.context_fault(record.tokens, state.context)


def _may_reread(state: EngineState, record: SessionRecord, conversation: Any) -> bool:
    """Whether the session can be read again here: its tokens, or the messages of its conversation."""
    return conversation is not None or (record.tokens > 0 and _may_reread_tokens(state, record))


def _may_reread_tokens(state: EngineState, record: SessionRecord) -> bool:
    return record.vocabulary == state.vocabulary and record.tokens < state.context.capacity


def _read_tokens(file: TensorFile, record: SessionRecord, state: EngineState) -> TokenArray:
    """The committed tokens, and nothing else of a file whose rows are of no use here; none if they are not either."""
    if not _may_reread_tokens(state, record):
        file.read({})
        return np.empty(0, np.int32)
    tokens = np.empty(record.tokens, np.int32)
    file.read({TOKENS: tokens})
    _check_tokens(tokens, state.vocab_size)
    return tokens


def _take_over(file: TensorFile, record: SessionRecord, state: EngineState) -> TokenArray:
    """Reads all rows that the open levels can use into them; returns the committed tokens."""
    levels = {level.name: level for level in record.levels}
    used = [
        (levels[held.name], held)
        for held in state.levels
        if (level := levels.get(held.name)) is not None and held.fault(level.identity, level.rows, level.behind) is None
    ]
    for level, held in used:
        _check_shapes(file.tensors, level, held)
    state.context.hold(())
    places: dict[str, npt.NDArray[Any]] = {TOKENS: np.empty(record.tokens, np.int32)}
    arrays: dict[str, list[npt.NDArray[Any]]] = {}
    for level, held in used:
        places[level.tokens_name] = np.empty(level.rows, np.int32)
        arrays[level.name] = held.empty(level.rows, level.behind)
        places |= {level.array_name(number): array for number, array in enumerate(arrays[level.name])}
    file.read(places)
    _check_tokens(places[TOKENS], state.vocab_size)
    for level, held in used:
        _check_tokens(places[level.tokens_name], held.model.vocab_size)
    for level, held in used:
        held.keep(places[level.tokens_name], arrays[level.name], level.behind)
    state.context.hold(places[TOKENS])
    state.context.first, state.context.sampling = record.left_out, record.sampling
    for name, learnt in record.calibrations.items():
        if name in state.calibrations and state.calibrations[name].is_blank:
            state.calibrations[name].learn(learnt.weights, learnt.errors)
    return places[TOKENS]


def _check_shapes(tensors: Mapping[str, Tensor], level: LevelRecord, held: HeldLevel) -> None:
    """UntrustedError unless the arrays of ``level`` are those of the open level's cache."""
    wanted = held.shapes(level.rows, level.behind)
    if level.arrays != len(wanted):
        raise UntrustedError(f"has {level.arrays} arrays for {shown(level.name)}, whose cache has {len(wanted)}")
    for number, (dtype, shape) in enumerate(wanted):
        tensor = tensors[level.array_name(number)]
        if (tensor.dtype, tensor.shape) != (dtype, shape):
            raise UntrustedError(
                f"has an array {shown(level.array_name(number))} of {tensor.dtype} {tensor.shape}, and the cache one of"
                f" {dtype} {shape}"
            )


def _check_tokens(tokens: TokenArray, vocab_size: int) -> None:
    """UntrustedError for a token without an embedding."""
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise UntrustedError(f"has tokens outside the vocabulary of {vocab_size:,}")
