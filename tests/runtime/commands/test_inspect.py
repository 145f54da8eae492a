"""Inspecting: every level with what a user must know of it, in words and as JSON."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from export.manifest import KvEffect, LogitCheck, read_manifest
from memory import Request, make_plan
from runtime.__main__ import main
from runtime.commands.bundle_summary import describe, level_lines, plan_lines
from tests.devices import AMPLE


def test_all_levels_files_and_the_plan_are_shown(random_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(random_bundle)]) == 0
    out = capsys.readouterr().out
    for part in (
        "target tiny: tiny, from tiny [random-weights: for timing only]",
        "drafter near: ",
        "weights int4 in blocks of 32 by rtn, relative error 0.1000",
        "KV cache fp32: 512 bytes per token, graph model.onnx",
        "drafters: near, far, suffix, none, auto",
        "drafters/far/model.onnx",
        "hashes were right when first opened",
        "plan for tiny: ",
    ):
        assert part in out


def test_json_says_the_same(random_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(random_bundle), "--verify", "--json", "--context", "100"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [level["name"] for level in data["levels"]] == ["tiny", "near", "far"]
    assert data["levels"][0]["kv_bytes_per_token"] == {"fp32": 512}
    assert data["verified"] == "all hashes are right"
    assert data["plan"]["context"] == 100
    assert [level["name"] for level in data["plan"]["levels"]] == ["tiny", "near", "far"]


def test_verify_finds_a_change_that_keeps_size_and_time(
    random_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(random_bundle, tmp_path / "copy")
    assert main(["inspect", str(bundle)]) == 0
    path = bundle / "model.onnx"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert main(["inspect", str(bundle)]) == 0
    assert main(["inspect", str(bundle), "--verify"]) == 2
    err = capsys.readouterr().err
    assert err == f"error: {path} was changed: its sha256 is not the manifest's; export the bundle again\n"


def test_bundles_of_another_builder_are_described(foreign_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(foreign_bundle)]) == 0
    out = capsys.readouterr().out
    assert "written by another builder, which lists no hashes" in out
    assert "drafts: chains\n" in out


def test_checks_are_shown_with_their_numbers(random_bundle: Path) -> None:
    check = LogitCheck("a text", 256, 1.5, 0.25, 0.965, 7.0, 7.5)
    level = replace(read_manifest(random_bundle).target, check=check)
    assert list(level_lines(level))[-1] == (
        "  check: 256 tokens of a text: logits differ by 0.2500 (most 1.5000), same argmax 96.5%,"
        " perplexity 7.500 (reference 7.000)"
    )


def test_measured_effects_are_shown(random_bundle: Path) -> None:
    effects = {"int8": KvEffect(1.25, 64, "native", 1.001), "fp16": KvEffect(0.5, 1000, "portable")}
    level = replace(read_manifest(random_bundle).target, kv_effects=effects, agreement=0.48, sparse_bytes=1000)
    lines = list(level_lines(level))
    for wanted in (
        "  KV cache int8 against fp32: perplexity x 1.0010, steps x 1.25 a second behind 64 rows (native kernels)",
        "  KV cache fp16 against fp32: steps x 0.50 a second behind 1,000 rows (portable kernels)",
        "  it would have said 48.0% of the tokens of the target's greedy answers",
    ):
        assert wanted in lines
    assert any(f"{level.weight_bytes:,} bytes, 1,000 of them read a few rows" in line for line in lines)


def test_what_the_plan_gives_up_is_shown(random_bundle: Path) -> None:
    manifest = read_manifest(random_bundle)
    whole = make_plan(manifest, AMPLE, Request())
    plan = make_plan(manifest, AMPLE, Request(budget_bytes=whole.needed_bytes - 1))
    text = "\n".join(plan_lines(plan))
    assert plan.given_up
    for entry in plan.given_up:
        assert f"given up: {entry.step}, {entry.change}" in text
    kernels = {level.name: "" for level in manifest.levels}
    assert describe(manifest, plan, "", kernels)["plan"]["given_up"] == tuple(asdict(entry) for entry in plan.given_up)
