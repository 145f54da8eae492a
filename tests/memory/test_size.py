"""Sizes as people write them."""

from __future__ import annotations

import pytest

from memory.size import MemoryShare, SizeError, parse_size, show_bytes


def test_units_of_ten_and_of_two() -> None:
    texts = ["12", "1KB", "1.5MB", "2 gb", "1GiB", "3mib", " 7B "]
    assert [parse_size(text) for text in texts] == [12, 1000, 1_500_000, 2 * 10**9, 2**30, 3 * 2**20, 7]


def test_units_may_leave_out_the_byte_and_numbers_may_have_a_decimal_comma() -> None:
    texts = ["512Mi", "512MiB", "2g", "1 Ti", "1,5GB", "0,25GiB", "60,5%"]
    sizes = [512 * 2**20, 512 * 2**20, 2 * 10**9, 2**40, 1_500_000_000, 2**28, MemoryShare(0.605)]
    assert [parse_size(text) for text in texts] == sizes


def test_a_share_is_of_what_is_available() -> None:
    share = parse_size("60%")
    assert isinstance(share, MemoryShare)
    assert share.of(1000) == 600
    assert parse_size("100 %") == MemoryShare(1.0)


@pytest.mark.parametrize(
    "text", ["", "MB", "two", "1 elephant", "-5", "1e9", "5%%", "1.5.2MB", "1,500MB", "1,5,2MB", "9" * 400, "٣MB"]
)
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(SizeError, match=r"is no size; write a number of bytes, one with a unit \(800MB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0", "0MB", "0%", "0.3", "0,0001KB"])
def test_nothing_is_no_budget(text: str) -> None:
    with pytest.raises(SizeError, match="allows nothing; allow more than 0"):
        parse_size(text)


def test_more_than_everything_is_refused() -> None:
    with pytest.raises(SizeError, match="101% is more than all the memory there is"):
        parse_size("101%")


def test_bytes_for_people() -> None:
    assert show_bytes(1_234_567_890) == "1,234.6 MB"
