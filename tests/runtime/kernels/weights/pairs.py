"""Pairs of a graph and its packed weights: where they are, what they compute, and what is done to them."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from runtime.kernels.weights import prepacking
from runtime.models.ort_model import OrtModel
from tests.runtime.kernels.weights.weighty import MAX_ROWS


def pairs(folder: Path) -> list[Path]:
    """The folders of pairs below ``folder``, and parts of them."""
    return sorted(folder.glob("**/prepacked/**/model.onnx/*/"))


def logits(model: OrtModel, width: int) -> np.ndarray:
    rows = np.random.default_rng(1).integers(0, model.vocab_size, 2 * MAX_ROWS).tolist()
    model.cache.rollback(0)
    return np.concatenate([model.forward(rows[i : i + width]).logits.copy() for i in range(0, len(rows), width)])


def read_only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Nothing can be begun below the folders (which a superuser's permissions would allow)."""

    def refuse(folder: Path, pattern: str) -> None:
        if any(folder.is_relative_to(place) for place in folders):
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(prepacking, "clear_abandoned", refuse)


def zeroed(path: Path) -> None:
    """A page in the middle of a file is lost."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(500))
