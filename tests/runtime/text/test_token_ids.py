"""Bundles without a tokenizer: token ids in, token ids out, and for texts a remedy that works."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from export.manifest import read_manifest, write_manifest
from runtime import Engine
from runtime.__main__ import main
from runtime.text.token_ids import TokenIds
from runtime.text.tokenizer import TextStream, TokenizerError
from tests.runtime.tiny_bundle import write_tokenizer
from tests.runtime.tiny_graph import VOCAB


@pytest.fixture
def bare_bundle(random_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that was made without a tokenizer."""
    bundle = Path(shutil.copytree(random_bundle, tmp_path / "bare"))
    manifest = read_manifest(bundle)
    files = {name: entry for name, entry in manifest.files.items() if "token" not in name and "chat" not in name}
    for name in set(manifest.files) - set(files):
        (bundle / name).unlink()
    write_manifest(bundle, replace(manifest, files=files))
    return bundle


def test_ids_go_in_and_come_out(bare_bundle: Path, random_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine.open(random_bundle) as engine:
        wanted = [token for step in engine.generate([3, 4, 5], max_new_tokens=8) for token in step.step.tokens]
    assert main(["generate", str(bare_bundle), "3 4 5", "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out.split() == list(map(str, wanted))


def test_texts_are_refused_with_a_remedy_that_works(bare_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(bare_bundle), "Once upon", "--max-new-tokens", "4"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "has no tokenizer.json and takes token ids alone, as in '1 15 27'" in line
    assert f".save_pretrained('{bare_bundle}')" in line
    write_tokenizer(bare_bundle)
    assert main(["generate", str(bare_bundle), "Once upon", "--max-new-tokens", "4"]) == 0


def test_bench_draws_its_prompts(bare_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--tokens", "4", "--threads", "1", "--repeat", "1", "--compare", "plain,near-chain3", "--count", "2")
    assert main(["bench", str(bare_bundle), *options]) == 0
    out, err = capsys.readouterr()
    assert "2 prompts of random tokens" in out
    assert "has no tokenizer: prompts are random tokens" in err


def test_ids_that_the_model_lacks_are_named(bare_bundle: Path) -> None:
    with Engine.open(bare_bundle) as engine, pytest.raises(TokenizerError, match=str(VOCAB)):
        engine.encode(f"1 {VOCAB}")


def test_text_comes_in_pieces_as_it_comes_at_once() -> None:
    tokenizer = TokenIds(Path("bundle"))
    stream = TextStream(tokenizer, after=[8])
    pieces = [stream.feed([token]) for token in (7, 19, 7)] + [stream.flush()]
    assert "".join(pieces) == " 7 19 7"
    assert tokenizer.decode([7, 19, 7]) == "7 19 7"
    assert tokenizer.encode_rest("1 2 30", 3) == [30]
