"""Reads which tokens a drafter's logits are of, where its head was cut to a part of the vocabulary (FR-Spec)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.manifest import DRAFT_VOCABULARY_NAME, Level, ManifestError
from export.untrusted import UntrustedError, read_bytes

_ID_BYTES = 4


@dataclass(frozen=True)
class LogitTokens:
    """The tokens that logits are of: their ascending ``ids``, int64, of the ``vocab_size`` that the model reads."""

    ids: npt.NDArray[np.int64]
    vocab_size: int


def read_logit_tokens(folder: Path, level: Level) -> LogitTokens | None:
    """The tokens that the logits of ``level``, in ``folder``, are of; None: of all.

    ManifestError unless they are as many as the manifest says, all different, and of the level's vocabulary.
    """
    cut, path = level.draft_vocabulary, folder / DRAFT_VOCABULARY_NAME
    if cut is None:
        return None
    size = cut.tokens * _ID_BYTES
    try:
        data = read_bytes(path, size)
    except FileNotFoundError:
        raise ManifestError(f"{path} is missing; export the bundle again") from None
    except UntrustedError as error:
        raise ManifestError(f"{path} {error}; export the bundle again") from None
    if len(data) != size:
        raise ManifestError(f"{path} has {len(data):,} bytes, {cut.tokens:,} tokens take {size:,}; export again")
    ids = np.frombuffer(data, "<i4").astype(np.int64)
    if ids[0] < 0 or ids[-1] >= level.shape.vocab_size or not (np.diff(ids) > 0).all():
        raise ManifestError(
            f"{path} does not have {cut.tokens:,} different tokens from 0 to {level.shape.vocab_size - 1:,} in"
            " ascending order; export the bundle again"
        )
    return LogitTokens(ids, level.shape.vocab_size)
