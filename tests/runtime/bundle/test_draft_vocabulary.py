"""The tokens of a cut head are not trusted: number, range, order, and the file they are in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.manifest import DRAFT_VOCABULARY_NAME, DraftVocabulary, ManifestError
from runtime.bundle.draft_vocabulary import read_logit_tokens
from tests.export.test_manifest import TARGET

LEVEL = replace(TARGET, role="drafter", draft_vocabulary=DraftVocabulary(4))


def _write(folder: Path, *ids: int) -> None:
    (folder / DRAFT_VOCABULARY_NAME).write_bytes(np.array(ids, "<i4").tobytes())


def test_the_tokens_are_read_as_they_were_written(tmp_path: Path) -> None:
    _write(tmp_path, 0, 7, 8, 299)
    found = read_logit_tokens(tmp_path, LEVEL)
    assert found is not None
    assert (found.ids.tolist(), found.vocab_size) == ([0, 7, 8, 299], 300)


def test_a_whole_vocabulary_needs_no_file(tmp_path: Path) -> None:
    assert read_logit_tokens(tmp_path, TARGET) is None


@pytest.mark.parametrize("ids", [(-1, 2, 3, 4), (1, 2, 3, 300), (1, 2, 2, 3), (1, 3, 2, 4)])
def test_tokens_out_of_range_twice_or_out_of_order_are_refused(tmp_path: Path, ids: tuple[int, ...]) -> None:
    _write(tmp_path, *ids)
    with pytest.raises(ManifestError, match="does not have 4 different tokens from 0 to 299 in ascending order"):
        read_logit_tokens(tmp_path, LEVEL)


@pytest.mark.parametrize("ids", [(), (1, 2, 3), (1, 2, 3, 4, 5)])
def test_files_of_another_length_are_refused(tmp_path: Path, ids: tuple[int, ...]) -> None:
    _write(tmp_path, *ids)
    with pytest.raises(ManifestError, match=r"4 tokens take 16; export again|has more than 16 bytes; export"):
        read_logit_tokens(tmp_path, LEVEL)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=rf"{DRAFT_VOCABULARY_NAME} is missing; export the bundle again"):
        read_logit_tokens(tmp_path, LEVEL)
