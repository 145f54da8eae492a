"""What training leaves in its folders: its state, the best weights so far, arrays. All are written whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import nn

from export.manifest import PocketspecError

CHECKPOINT = "training.pt"
_BEST = "best.pt"


class FullDiskError(PocketspecError, OSError):
    """A file that could not be written; what stood there before still does."""


@contextmanager
def room_on_disk(path: Path) -> Iterator[None]:
    """A context in which ``path`` is written; FullDiskError for what torch and safetensors raise if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, PocketspecError):
            raise
        reason = " ".join(str(error).split())[:120]
        raise FullDiskError(
            f"{path} cannot be written ({reason}); free space on its disk, and the same command continues"
        ) from error


def write_state(state: Any, path: Path) -> None:
    """Writes tensors, numbers and containers of them to ``path``; FullDiskError if there is no room."""
    part = path.with_name(path.name + ".part")
    try:
        with room_on_disk(path):
            torch.save(state, part)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_arrays(path: Path, **arrays: npt.ArrayLike) -> None:
    """Writes named arrays to ``path`` as ``.npz``; FullDiskError if there is no room."""
    part = path.with_name(path.name + ".part")
    try:
        with room_on_disk(path):
            with part.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_state(path: Path, device: torch.device) -> Any:
    """What ``write_state`` wrote, its tensors on ``device``; None if there is no file."""
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


class Best:
    """The weights that were worth most, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _BEST
        saved = read_state(self._path, torch.device("cpu"))
        self._worth = float("-inf") if saved is None else float(saved["worth"])

    def offer(self, model: nn.Module, worth: float) -> None:
        """Keeps the weights of ``model`` if they are worth at least as much as those before."""
        if worth >= self._worth:
            write_state({"worth": worth, "model": model.state_dict()}, self._path)
            self._worth = worth

    def restore(self, model: nn.Module) -> None:
        """Puts the best weights into ``model``."""
        saved = read_state(self._path, torch.device("cpu"))
        model.load_state_dict(saved["model"])

    def forget(self) -> None:
        """Removes the file."""
        self._path.unlink(missing_ok=True)
