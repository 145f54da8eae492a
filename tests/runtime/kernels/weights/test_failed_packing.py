"""Weights that cannot be packed are copied into memory, and one line says why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from export.manifest import read_manifest
from memory.device import Device
from memory.plan import OverBudgetError
from runtime.kernels.backends import Kernels
from runtime.kernels.selection import Chooser
from runtime.kernels.weights import prepacking
from runtime.models import prepacker
from tests.runtime.kernels.weights.pairs import logits, pairs, read_only
from tests.runtime.kernels.weights.weighty import open_target

WRITE_ISOLATED = prepacking.write_isolated  # that of users: the tests pack in their own process


def full_disk(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    usage = shutil.disk_usage(bundle)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    return "its disk is full (1,000 bytes are free); free space, or set POCKETSPEC_CACHE to a folder on another disk"


def no_writable_place(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    read_only(monkeypatch, bundle.parent)
    return "cannot be written (Read-only file system)"


def other_results(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    run = prepacker._results
    results = iter([0.0, 1e-6] * 2)
    monkeypatch.setattr(prepacker, "_results", lambda *given: [array + next(results) for array in run(*given)[:1]])
    return f"packs the weights of {bundle / 'model.onnx'} so that its results change"


def no_data_written(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """As where a disk fills up behind ONNX Runtime's back."""
    run = prepacker._results

    def cut(graph: Path, options: ort.SessionOptions, kv_shape: tuple[int, int]) -> Any:
        results = run(graph, options, kv_shape)
        if graph == bundle / "model.onnx":
            (part,) = graph.parent.glob("**/*.part/model.onnx.data")
            os.truncate(part, 100)
        return results

    read_only(monkeypatch, bundle.parent / "user")
    monkeypatch.setattr(prepacker, "_results", cut)
    return f"cannot pack the weights of {bundle / 'model.onnx'}: "


def no_memory(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(prepacking, "read_device", lambda: Device(8 << 30, 1000))
    return "of memory, once, and 1,000 are available now; close other programs"


def killed_process(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    ended = subprocess.CompletedProcess[str]([], -9, "", "")
    monkeypatch.setattr(prepacking, "write_isolated", WRITE_ISOLATED)
    monkeypatch.setattr(prepacking, "run_module", lambda *arguments: ended)
    return f"did not pack the weights of {bundle / 'model.onnx'} in a process of its own: it crashed with signal 9"


def no_process(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(prepacking, "write_isolated", WRITE_ISOLATED)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    return "which cannot be started: "


def missing_graph(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which the other process says."""
    missing = bundle / "missing.onnx"
    monkeypatch.setattr(
        prepacking, "write_isolated", lambda pair, part: WRITE_ISOLATED(replace(pair, graph=missing), part)
    )
    return f"cannot pack the weights of {missing}: "


FAULTS = [
    full_disk,
    no_writable_place,
    other_results,
    no_data_written,
    no_memory,
    killed_process,
    no_process,
    missing_graph,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_cannot_be_packed_are_copied_and_one_line_says_why(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path, pytest.MonkeyPatch], str]
) -> None:
    reason = fault(bundle, monkeypatch)
    notes: list[str] = []
    model = open_target(bundle, notify=notes.append)
    assert model.kernels.residence == "copied"
    assert np.isfinite(logits(model, 4)).all()
    (note,) = notes
    assert note.startswith("the weights of weighty are copied into memory: ")
    assert reason in note
    assert "\n" not in note
    assert pairs(bundle.parent) == []


def test_who_has_no_room_for_copies_knows_why_they_are_made(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = no_memory(bundle, monkeypatch)
    manifest, notes = read_manifest(bundle), list[str]()

    def open_in_small_plan(kernels: Kernels) -> None:
        if kernels.residence == "copied":
            raise OverBudgetError("no room", 1)
        kernels.graph(bundle, manifest.target, "fp32")

    with pytest.raises(OverBudgetError):
        Chooser("portable", notes.append).open(bundle, manifest, manifest.target, open_in_small_plan)
    (note,) = notes
    assert reason in note


def test_what_failed_is_expected_to_fail_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(bundle)
    chooser = Chooser("portable")
    assert chooser.expected_residence(manifest, manifest.target) == "prepacked"
    no_writable_place(bundle, monkeypatch)
    for _ in range(2):
        found = chooser.open(
            bundle,
            manifest,
            manifest.target,
            lambda kernels: (kernels.graph(bundle, manifest.target, "fp32"), kernels)[1],
        )
        assert found.residence == chooser.expected_residence(manifest, manifest.target) == "copied"
        monkeypatch.undo()
