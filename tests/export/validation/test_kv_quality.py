"""Measured effects: every type a level has, ratios that can be true, and what cannot be measured is left out."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.bundle import export_bundle
from export.manifest import Level, PocketspecError, read_manifest
from export.perplexity import perplexity, surprises
from export.report import SilentReporter
from export.request import ExportRequest
from export.validation import isolated as lean
from export.validation import kv_quality as effects
from export.validation.isolated import run_lean
from export.validation.kv_quality import EffectsError, measure_effects, open_model
from runtime.kernels.library import library_path, verdict_on
from runtime.models.ort_model import OrtModel
from tests.conftest import TinyModels
from tests.export.graph.test_kv_variants import open_graph
from tests.places import ROOT

TOKENS = np.random.default_rng(3).integers(0, 256, 40).tolist()


def target_of(bundle: Path) -> Level:
    return read_manifest(bundle).target


def test_every_level_says_what_its_kv_types_do(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    native = verdict_on(library_path())
    for bundle in (tiny_bundle, tiny_bundle_int4):
        for level in read_manifest(bundle).levels:
            fast = level.native is not None and native.fault is None and native.isa != "portable"
            graphs = level.native.graphs if fast and level.native is not None else level.graphs
            assert set(level.kv_effects) == set(graphs) - {"fp32"}
            for effect in level.kv_effects.values():
                assert (effect.rows, effect.kernels) == (511, "native" if fast else "portable")
                assert 0.01 < effect.speed < 100
                assert effect.perplexity == pytest.approx(1, abs=0.5)
            assert level.kv_effects["fp16"].perplexity == pytest.approx(1, abs=0.02)


def test_types_are_measured_with_onnx_runtime_where_there_are_no_kernels(
    tiny_bundle_int4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POCKETSPEC_LIBRARY", "nowhere.so")
    found = measure_effects(tiny_bundle_int4, "model.onnx", target_of(tiny_bundle_int4), TOKENS)
    assert {kind: effect.kernels for kind, effect in found.items()} == dict.fromkeys(
        ("fp16", "int8", "int4"), "portable"
    )


def test_the_context_is_as_long_as_asked_or_as_the_model_allows(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "ROWS", 17)  # fewer than the text has
    found = measure_effects(tiny_bundle, "model.onnx", target_of(tiny_bundle), TOKENS)
    assert {effect.rows for effect in found.values()} == {17}


def test_perplexity_does_not_depend_on_chunks(tiny_bundle: Path) -> None:
    model = open_graph(tiny_bundle, "fp32")
    wanted = perplexity(surprises(model.forward(TOKENS).logits.copy(), TOKENS[1:]))
    model.cache.rollback(0)
    assert effects._read(model, TOKENS) == pytest.approx(wanted, rel=1e-5)
    assert model.cache.tokens.tolist() == TOKENS


def test_a_filled_cache_repeats_its_rows(tiny_bundle: Path) -> None:
    model = open_graph(tiny_bundle, "int4")
    model.prefill(TOKENS)
    effects._fill(model, 60)
    assert model.cache.tokens.tolist() == [*TOKENS, *TOKENS[:20]]
    assert all(np.array_equal(array[:, :, 40:60], array[:, :, :20]) for array in model.cache.arrays)


def test_weights_too_large_to_copy_are_said_so(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "PORTABLE_BYTES", 1000)
    with pytest.raises(EffectsError, match=r"would copy [\d,]+ bytes of weights for every session, at most 1,000 are"):
        measure_effects(tiny_bundle, "model.onnx", target_of(tiny_bundle), TOKENS)


def test_large_models_have_one_kv_type_open_at_a_time(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[weakref.ref[OrtModel]] = []
    most = 0

    def counted(*given: Any) -> OrtModel:
        nonlocal most
        model = open_model(*given)
        opened.append(weakref.ref(model))
        most = max(most, sum(known() is not None for known in opened))
        return model

    monkeypatch.setattr(effects, "open_model", counted)
    together = measure_effects(tiny_bundle, "model.onnx", target_of(tiny_bundle), TOKENS)
    assert most == len(opened) == len(together) + 1
    opened.clear()
    most = 0
    monkeypatch.setattr(effects, "TOGETHER_BYTES", 0)
    apart = measure_effects(tiny_bundle, "model.onnx", target_of(tiny_bundle), TOKENS)
    assert most == 1
    assert len(opened) > len(apart) + 1
    for kind, effect in apart.items():
        assert effect.perplexity == pytest.approx(together[kind].perplexity, rel=1e-5)


@pytest.mark.usefixtures("lowered_once")
def test_large_models_are_measured_in_a_process_without_torch(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean, "HERE_BYTES", 0)
    loaded = "export.validation.kv_quality, export.validation.agreement, runtime.models.ort_model"
    code = f"import sys, {loaded}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    drafters = (str(tiny_models.drafter),)
    request = ExportRequest(str(tiny_models.target), tmp_path / "out", weights="fp32", drafters=drafters)
    target, drafter = read_manifest(export_bundle(request)).levels
    assert set(target.kv_effects) == {"fp16", "int8", "int4"}
    assert drafter.agreement is not None
    assert target.left_out == drafter.left_out == {}


def test_a_process_that_the_system_ends_leaves_a_measurement_out(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean, "HERE_BYTES", 0)
    with pytest.raises(PocketspecError, match="for want of memory"):
        run_lean(1, os._exit, 9)


@pytest.mark.usefixtures("lowered_once")
def test_what_cannot_be_measured_is_noted_and_left_out(
    tiny_models: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []

    class Recorder(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    monkeypatch.setattr(effects, "PORTABLE_BYTES", 1000)
    request = ExportRequest(str(tiny_models.target), tmp_path / "out", weights="fp32", drafters=())
    target = target_of(export_bundle(request, Recorder()))
    assert target.kv_effects == {}
    assert target.left_out["kv_effects"].startswith("ONNX Runtime's own kernels would copy")
    assert [note.partition(":")[0] for note in notes] == ["tiny-target"]


@pytest.mark.usefixtures("lowered_once")
def test_random_weights_have_a_speed_alone(tiny_models: TinyModels, tmp_path: Path) -> None:
    drafters = (str(tiny_models.drafter),)
    request = ExportRequest(str(tiny_models.target), tmp_path / "out", drafters=drafters, random_weights=True)
    target, drafter = read_manifest(export_bundle(request)).levels
    assert {"fp16", "int8"} <= set(target.kv_effects)
    assert {(effect.perplexity, effect.speed > 0) for effect in target.kv_effects.values()} == {(None, True)}
    assert set(target.graphs) == {"fp32", "fp16", "int8", "int4"}
    assert drafter.agreement is None
