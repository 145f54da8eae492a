"""Counts the rows that a model computes, whoever asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runtime.models.ort_model import OrtModel


@contextmanager
def rows_read(model: OrtModel) -> Iterator[list[int]]:
    """A context; the list has the number of tokens of every forward and prefill of ``model`` in it."""
    read: list[int] = []

    def counted(run: Any) -> Any:
        def call(tokens: Any, *rest: Any) -> Any:
            read.append(len(tokens))
            return run(tokens, *rest)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("forward", "prefill"):
            patch.setattr(model, name, counted(getattr(model, name)))
        yield read
