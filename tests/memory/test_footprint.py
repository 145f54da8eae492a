"""Which pages of the weights' files are in memory while steps run."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from export.manifest import ConvolutionShape, Level, ModelShape, RecurrenceShape, WideLayers
from memory.activations import native_activations
from memory.device import Residence
from memory.footprint import (
    LevelSizes,
    Part,
    _embedding_rows,
    activation_bytes,
    hot_weight_bytes,
    kv_bytes_per_token,
    level_footprint,
    packing_bytes,
)
from tests.memory.manifests import MIDDLE, QWEN, TARGET

# The cosines and sines of all positions, float32.
ROTARY = QWEN.positions * QWEN.head_size * 4
FAULT_AROUND = 1 << 16
LEVEL = replace(TARGET, sparse_bytes=ROTARY)


def weights(residence: Residence, capacity: int) -> Part:
    return level_footprint(LEVEL, LevelSizes("fp32", capacity, 8, 8, 64, tree=False), residence, 2).part("weights")


@pytest.mark.parametrize("capacity", [100, 1024, 30_000])
def test_of_rotary_tables_the_rows_of_the_context_are_in_memory(capacity: int) -> None:
    rows = weights("native", capacity).hot - hot_weight_bytes(LEVEL, "native")
    assert rows == min(capacity * QWEN.head_size * 4 + 2 * FAULT_AROUND, ROTARY)


def test_no_table_has_more_rows_than_positions() -> None:
    part = weights("native", 2 * QWEN.positions)
    assert (part.hot, part.cold) == (hot_weight_bytes(LEVEL, "native") + ROTARY, 0)


def test_a_prepacked_file_has_its_scales_twice_in_memory() -> None:
    packed = weights("prepacked", 1024).hot - weights("native", 1024).hot
    packed -= hot_weight_bytes(LEVEL, "prepacked") - hot_weight_bytes(LEVEL, "native")
    table = QWEN.vocab_size * QWEN.hidden_size // 2
    # A block of 128 codes of 4 bits has a scale of 4 bytes.
    assert packed - table == pytest.approx((LEVEL.weight_bytes - ROTARY) * 4 / (64 + 4), abs=1)


@pytest.mark.parametrize("residence", get_args(Residence))
def test_hot_and_cold_pages_are_all_of_the_file(residence: Residence) -> None:
    sizes = {weights(residence, capacity).hot + weights(residence, capacity).cold for capacity in (64, 1024, 30_000)}
    assert len(sizes) == 1


def test_recognizing_a_head_takes_its_packed_form_and_its_scales() -> None:
    """Measured with ONNX Runtime 1.31 and 1.32, without the rest of the process."""
    small = replace(TARGET, shape=MIDDLE, quantization=replace(TARGET.quantization, block_size=32))
    assert packing_bytes(small) == pytest.approx(120e6, rel=0.02)
    assert packing_bytes(TARGET) == pytest.approx(137e6, rel=0.02)


def test_shared_caches_are_counted_once_and_wide_heads_as_they_are() -> None:
    even = replace(QWEN, layers=35, kv_heads=1, head_size=256)
    gemma = replace(even, attention_layers=15, wide=WideLayers(3, 1, 512))
    assert kv_bytes_per_token(even, "fp16") == 35 * 2 * 256 * 2
    assert kv_bytes_per_token(gemma, "fp16") == (12 * 2 * 256 + 3 * 2 * 512) * 2
    assert kv_bytes_per_token(gemma, "int8") == 12 * 2 * (256 + 4) + 3 * 2 * (512 + 4)


def test_a_step_holds_copies_of_logits_that_are_capped() -> None:
    capped, plain = replace(TARGET, architecture="gemma2"), replace(TARGET, architecture="llama")

    def alive(level: Level, chunk: int) -> int:
        return activation_bytes(level, LevelSizes("fp32", 1024, 8, 8, chunk, tree=False), "native", 1)

    assert alive(capped, 8) - alive(plain, 8) == 2 * 8 * QWEN.vocab_size * 4
    assert alive(capped, 4096) == alive(plain, 4096) > alive(capped, 8)


def test_a_row_of_a_table_is_read_among_others() -> None:
    """Of its panel and of the pages around it; many tokens read all of a table, and never more."""
    table = QWEN.vocab_size * QWEN.hidden_size // 2
    level = replace(TARGET, sparse_bytes=table)

    def rows(tokens: int) -> int:
        return _embedding_rows(level, "native", tokens)

    assert rows(1) == pytest.approx(FAULT_AROUND + 16 * QWEN.hidden_size // 2, rel=1e-3)
    assert rows(1) * 700 < rows(1000) < rows(1) * 1000
    assert 0.99 * table < rows(100_000) <= table


def test_native_tables_have_smaller_scales() -> None:
    size = QWEN.vocab_size * QWEN.hidden_size // 2 * 36 // 32  # codes of 4 bits, and a scale for 128 of them
    level = replace(TARGET, sparse_bytes=size)
    saved = hot_weight_bytes(level, "native") - (hot_weight_bytes(TARGET, "native") - size)
    assert saved == QWEN.vocab_size * QWEN.hidden_size // 128 * 2


def test_layers_with_states_take_more_memory_for_every_row_of_a_prompt() -> None:
    attending = ModelShape(8, 1024, 3584, 8, 2, 256, 4096, 4096)
    convolving = replace(attending, attention_layers=2, convolutions=ConvolutionShape(6, 1024, 3))
    recurrent = replace(convolving, recurrences=RecurrenceShape(6, 16, 16, 128, 128))
    rows = [native_activations(shape, 1) for shape in (attending, convolving, recurrent)]
    assert rows == sorted(set(rows))
    assert [native_activations(shape, 64) for shape in (attending, convolving, recurrent)] == [64 * row for row in rows]
