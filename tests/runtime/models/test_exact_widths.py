"""Safe widths: the self-test finds which row counts agree, and rows run at those agree bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.decoding.protocols import ModelOutput
from runtime.models.exact_widths import SafeWidths, any_width, even_widths, find_safe_widths
from runtime.models.ort_model import OrtModel, open_session
from tests.runtime.table_model import TableModel
from tests.runtime.tiny_graph import VOCAB, write_tiny_graph


class Device(TableModel):
    """The last bits of logits, or of the cache, depend on the number of rows; siblings may disturb a path."""

    def __init__(
        self, logits: Callable[[int], int], cache: Callable[[int], int] = lambda rows: 0, tree: int = 0
    ) -> None:
        super().__init__(max_rows=8)
        self._logits_bits, self._cache_bits, self._tree_bits = logits, cache, tree

    def forward(self, tokens, parents=None, logits_from=0) -> ModelOutput:
        past = self.cache.length
        output = super().forward(tokens, parents, logits_from)
        self.cache.arrays[0][0, 0, past : past + len(tokens), 3] += self._cache_bits(len(tokens)) / 1024
        bits = self._logits_bits(len(tokens)) + (0 if parents is None else self._tree_bits)
        return ModelOutput(output.logits + np.float32(bits / 1024))


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (Device(lambda rows: 0), SafeWidths(tuple(range(1, 9)), True, True)),
        (Device(lambda rows: rows == 1), SafeWidths(tuple(range(2, 9)), True, True)),
        (Device(lambda rows: rows % 2 and rows), SafeWidths((2, 4, 6, 8), True, True)),
        (Device(lambda rows: 0, lambda rows: rows % 2 and rows), SafeWidths((2, 4, 6, 8), True, True)),
        (Device(lambda rows: 0, tree=1), SafeWidths(tuple(range(1, 9)), True, False)),
        (Device(lambda rows: rows), SafeWidths(tuple(range(1, 9)), False, False)),
        # Widths 1 to 4 agree, but no larger one does: drafts would have nowhere to go.
        (Device(lambda rows: max(rows, 4)), SafeWidths(tuple(range(1, 9)), False, False)),
    ],
    ids=["all", "not one", "even", "even by the cache", "no trees", "none", "small ones only"],
)
def test_the_agreeing_widths_are_found(device: Device, expected: SafeWidths) -> None:
    assert find_safe_widths(device) == expected
    assert device.cache.length == 0


@pytest.mark.parametrize(
    ("most", "bits", "widths"), [(1, 1, (1,)), (2, 0, (1, 2)), (2, 1, (2,)), (3, 1, (1, 2, 3))], ids=str
)
def test_without_drafts_all_steps_run_the_padded_row(most: int, bits: int, widths: tuple[int, ...]) -> None:
    """Of so few rows no two need agree; of three, where drafts are possible, they do."""
    device = Device(lambda rows: rows * bits)
    device.max_rows = most
    assert find_safe_widths(device) == SafeWidths(widths, exact=most <= 2, tree=False)


@pytest.mark.parametrize("positions", [2, 3, 17, 48, 200])
@pytest.mark.parametrize("max_rows", [1, 2, 8, 16, 40])
def test_the_self_test_stays_within_the_positions_of_the_graph(positions: int, max_rows: int) -> None:
    """Where the context is all of them, the cache has room for one forward more."""

    class Bounded(TableModel):
        def forward(self, tokens, parents=None, logits_from=0) -> ModelOutput:
            assert self.cache.length + len(tokens) <= positions
            return super().forward(tokens, parents, logits_from)

    widths = find_safe_widths(Bounded(max_rows=max_rows, capacity=positions + max_rows))
    assert widths.widths[-1] <= max(positions // 2, max_rows if not widths.exact else 1)


def test_rows_are_padded_to_the_next_safe_width() -> None:
    widths = SafeWidths((2, 3, 8), True, False)
    assert [widths.pad(rows) for rows in (1, 2, 3, 4, 8)] == [2, 2, 3, 8, 8]
    assert widths.pad(9) > 1_000_000  # no forward may have that many rows
    assert even_widths(7).widths == (2, 4, 6)
    assert any_width(3).pad(1) == 1


@pytest.mark.parametrize("bits", [4, 32])
def test_any_mixture_of_safe_widths_gives_the_same_bits(bits: int, tmp_path: Path) -> None:
    session = open_session(write_tiny_graph(tmp_path / "model.onnx", bits=bits), 1)
    model = OrtModel(session, 128, 10, 32, any_width(10))
    model.widths = find_safe_widths(model)
    if not model.widths.exact:
        pytest.skip("no two widths agree on this device")
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, VOCAB, 90).tolist()
    runs = []
    for sizes in ([1] * 60, rng.integers(1, 9, 60).tolist()):
        model.cache.rollback(0)
        model.prefill(tokens[:20])
        rows: list[np.ndarray] = []
        for size in sizes:
            start = 20 + len(rows)
            if len(rows) < 60:
                rows += list(model.forward(tokens[start : start + min(size, 60 - len(rows))]).logits.copy())
        runs.append((np.array(rows), [array[:, :, :80].copy() for array in model.cache.arrays]))
    (one, one_cache), (mixed, mixed_cache) = runs
    assert np.array_equal(one, mixed)
    assert all(np.array_equal(left, right) for left, right in zip(one_cache, mixed_cache, strict=True))
