"""One benchmark with both kernels: each contender runs on the kernels in its name and is compared with its like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from export.manifest import PocketspecError
from runtime.__main__ import main
from runtime.bench.contenders import Contender, parse_contender, references
from runtime.decoding.draft import tree_limit
from runtime.speculation.request import PLAIN, Speculation


def test_kernels_stand_in_front_of_a_contender() -> None:
    assert parse_contender("native:plain") == Contender("native:plain", PLAIN, True, "native")
    assert parse_contender("portable:plain-safe") == Contender("portable:plain-safe", PLAIN, False, "portable")
    found = parse_contender("native:my-0.5b-tree12")
    assert (found.speculation, found.kernels) == (Speculation("my-0.5b", limit=tree_limit(12)), "native")
    for name in ("auto:plain", "fast:plain", "native:", "native:native:plain", "native"):
        with pytest.raises(PocketspecError, match=f"no contender '{name}'; .* with native: or portable: in front"):
            parse_contender(name)


def test_answers_are_compared_with_plain_ones_of_the_same_kernels() -> None:
    names = ("portable:plain", "native:plain", "native:plain-safe", "native:a-chain3", "portable:a-chain3", "b-chain2")
    assert references([parse_contender(name) for name in names]) == {
        "portable:plain": "portable:plain",
        "portable:a-chain3": "portable:plain",
        "native:plain": "native:plain-safe",
        "native:plain-safe": "native:plain-safe",
        "native:a-chain3": "native:plain-safe",
        "b-chain2": "b-chain2",
    }


def test_both_kernels_in_one_table(
    native_library: Path, native_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["portable:plain", "native:plain", "native:plain-safe", "native:tiny-drafter-chain3"]
    arguments = ["bench", str(native_bundle), "--compare", ",".join(names), "--count", "2", "--tokens", "8"]
    arguments += ["--repeat", "2", "--rows", "1,2", "--threads", "1", "--context", "128"]
    assert main([*arguments, "--output", str(tmp_path / "out.json")]) == 0
    out = capsys.readouterr().out
    assert "Kernels: portable (ONNX Runtime's own), native (" in out
    assert "| answers as plain of the same kernels |" in out
    for level in ("tiny-target", "tiny-drafter"):
        assert f"| native:{level} | " in out
        assert f"| portable:{level} | " in out
    data = json.loads((tmp_path / "out.json").read_text())
    assert list(data["contenders"]) == names
    assert [data["contenders"][name]["reference"] for name in names] == [names[0], *[names[2]] * 3]
    assert data["contenders"][names[3]]["identical"] == data["contenders"][names[3]]["answers"] == 4
    assert data["kernels"][0].startswith("portable")
    assert set(data["rows_seconds"]) == {
        f"{kind}:tiny-{part}" for kind in ("native", "portable") for part in ("target", "drafter")
    }


def test_kernels_that_cannot_be_had_are_an_error(
    native_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POCKETSPEC_LIBRARY", str(tmp_path / "nothing.so"))
    assert main(["bench", str(native_bundle), "--compare", "native:plain", "--context", "128"]) == 2
    assert capsys.readouterr().err.startswith("error: the native kernels are not built; ")
