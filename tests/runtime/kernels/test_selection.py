"""Which kernels run: native where all is there, else portable with one line that says why; the same text either way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.manifest import PocketspecError, read_manifest, write_manifest
from memory import Request
from memory.cores import read_cores
from runtime.__main__ import main
from runtime.bundle.device_cache import device_folder
from runtime.engine import Engine
from runtime.errors import UnsupportedModelError
from runtime.kernels import library
from runtime.kernels import selection as choice
from runtime.kernels.backends import PORTABLE, Native
from runtime.kernels.library import KernelsError
from runtime.kernels.selection import Chooser, Wanted
from runtime.speculation.request import PLAIN, Speculation
from tests.runtime.test_engine import answer, tokens_of

pytestmark = pytest.mark.usefixtures("native_library")


def open_engine(bundle: Path, kernels: Wanted = "auto") -> tuple[Engine, list[str]]:
    notes: list[str] = []
    return Engine.open(bundle, Request(context=128, threads=2, nodes=8), kernels=kernels, notify=notes.append), notes


def kernels_of(engine: Engine) -> list[str]:
    return [engine.target.kernels.name, *(model.kernels.name for model in engine.drafters.values())]


def told(notes: list[str]) -> list[str]:
    return [note for note in notes if "kernels" in note]


def test_native_kernels_are_the_default_and_weights_are_packed_once(native_bundle: Path) -> None:
    engine, notes = open_engine(native_bundle)
    assert kernels_of(engine) == ["native", "native"]
    assert told(notes) == []
    packed = native_bundle / "native.data"
    before = packed.stat()
    again, _ = open_engine(native_bundle, "native")
    assert kernels_of(again) == ["native", "native"]
    assert (packed.stat().st_ino, packed.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_kernels_differ_in_rounding_alone(native_bundle: Path) -> None:
    logits = []
    for kernels in ("native", "portable"):
        engine, _ = open_engine(native_bundle, kernels)
        engine.target.cache.rollback(0)
        logits.append(engine.target.forward([65, 66, 67, 68]).logits.copy())
    spread = np.abs(logits[1]).max()
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.05 * spread


@pytest.mark.parametrize("kernels", ["native", "portable"])
def test_speculative_text_equals_plain_text_with_the_same_kernels(native_bundle: Path, kernels: Wanted) -> None:
    engine, _ = open_engine(native_bundle, kernels)
    assert kernels_of(engine) == [kernels, kernels]
    assert engine.target.widths.exact
    plain = tokens_of(answer(engine, "Hello", speculation=PLAIN))
    (drafter,) = engine.drafters
    for speculation in (Speculation(drafter, 3), Speculation(drafter, 7), Speculation("suffix", 5)):
        assert tokens_of(answer(engine, "Hello", speculation=speculation)) == plain


def test_safe_widths_are_recorded_for_each_kernels(native_bundle: Path) -> None:
    for kernels in ("native", "portable"):
        for expected in (True, False):
            _, notes = open_engine(native_bundle, kernels)
            assert any("testing which row counts" in note for note in notes) == expected, kernels
    records = [json.loads(path.read_text()) for path in device_folder(native_bundle).glob("widths-*")]
    keys = {record["key"][-1][0]: record["key"][-1] for record in records}
    assert keys["portable"] == ["portable"]
    assert keys["native"] == ["native", *Native(library.open_library(), Path()).key[1:]]


def no_library(bundle: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setenv("POCKETSPEC_LIBRARY", str(bundle / "nothing.so"))
    return "the native kernels are not built; python -m runtime kernels --build builds them"


def bad_library(bundle: Path, patch: pytest.MonkeyPatch) -> str:
    (bundle / "bad.so").write_text("not a library")
    patch.setenv("POCKETSPEC_LIBRARY", str(bundle / "bad.so"))
    return "bad.so came to no end of its self-test: it cannot be loaded"


def older_export(bundle: Path, patch: pytest.MonkeyPatch) -> str:
    manifest = read_manifest(bundle)
    write_manifest(bundle, replace(manifest, levels=tuple(replace(level, native=None) for level in manifest.levels)))
    return "was exported without a native graph; export it again"


def no_room(bundle: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    return "its disk is full"


def damaged_graph(bundle: Path, patch: pytest.MonkeyPatch) -> str:
    """As if another library had taken the operators away."""
    patch.setattr("runtime.engine.engine.check_bundle", lambda *given: None)
    (bundle / "native.onnx").write_bytes(b"no graph")
    return "native.onnx"


FAULTS = [no_library, bad_library, older_export, no_room, damaged_graph]


@pytest.mark.parametrize("kernels", ["auto", "portable"])
def test_where_nothing_can_be_written_one_line_says_all_of_it(
    native_bundle: Path, monkeypatch: pytest.MonkeyPatch, kernels: Wanted
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    engine, notes = open_engine(native_bundle, kernels)
    assert kernels_of(engine) == ["portable", "portable"]
    assert answer(engine, "Hello")
    (note,) = notes
    assert "cannot be kept" in note
    assert "set POCKETSPEC_CACHE to a folder that can" in note
    with pytest.raises(PocketspecError, match="set POCKETSPEC_CACHE to a folder that can"):
        open_engine(native_bundle, "native")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_keeps_native_kernels_away_is_told_in_one_line(
    native_bundle: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Path, pytest.MonkeyPatch], str]
) -> None:
    reason = fault(native_bundle, monkeypatch)
    engine, notes = open_engine(native_bundle)
    assert engine.target.kernels.name == "portable"
    beginning = f"ONNX Runtime's own kernels run {engine.manifest.target.name}, so that "
    about_target = [note for note in notes if note.startswith(beginning)]
    assert len(about_target) == 1
    assert "plain steps take about 1.6 times as long" in about_target[0]
    assert reason in about_target[0]
    assert "\n" not in about_target[0]
    assert tokens_of(answer(engine, "Hello"))
    with pytest.raises(PocketspecError) as refused:
        open_engine(native_bundle, "native")
    assert reason in str(refused.value)


def test_one_reason_for_all_levels_is_told_once(native_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_library(native_bundle, monkeypatch)
    _, notes = open_engine(native_bundle)
    assert len(told(notes)) == 1


def test_a_drafter_without_native_form_does_not_matter_to_those_who_want_native(native_bundle: Path) -> None:
    manifest = read_manifest(native_bundle)
    levels = [replace(level, native=None) if level.role == "drafter" else level for level in manifest.levels]
    write_manifest(native_bundle, replace(manifest, levels=tuple(levels)))
    engine, notes = open_engine(native_bundle, "native")
    assert kernels_of(engine) == ["native", "portable"]
    assert len(told(notes)) == 1


def test_portable_kernels_ask_for_no_library(native_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "open_library", lambda: pytest.fail("asked for"))
    engine, notes = open_engine(native_bundle, "portable")
    assert kernels_of(engine) == ["portable", "portable"]
    assert told(notes) == []
    assert not (native_bundle / "native.data").exists()


def test_bundles_without_int4_say_what_native_kernels_need(random_bundle: Path, foreign_bundle: Path) -> None:
    needed = "native kernels need int4 or int8 in blocks of 32, 64, 128"
    for bundle in (random_bundle, foreign_bundle):
        engine, notes = open_engine(bundle)
        assert engine.target.kernels.name == "portable"
        assert f"has fp32 weights, and {needed}" in told(notes)[0]
    with pytest.raises(KernelsError, match=needed):
        open_engine(random_bundle, "native")


def test_other_names_for_kernels_are_refused() -> None:
    with pytest.raises(PocketspecError, match="no kernels 'fast'; there are: auto, native, portable"):
        Chooser("fast")  # type: ignore[arg-type]


def test_a_cache_that_no_graph_is_for_is_refused(native_bundle: Path) -> None:
    level = read_manifest(native_bundle).target
    kinds = (PORTABLE, Native(library.open_library(), native_bundle))
    for kernels in kinds:
        assert kernels.graph(native_bundle, level, "fp32").is_file()
        with pytest.raises(UnsupportedModelError, match="has no graph for a fp8 KV cache; it has: fp32"):
            kernels.graph(native_bundle, level, "fp8")


def test_threads_are_all_usable_cores_unless_said(native_bundle: Path) -> None:
    native = Native(library.open_library(), native_bundle)
    for asked, expected in ((None, read_cores().usable), (1, 1), (3, 3)):
        options = native.session_options(asked)
        assert options.intra_op_num_threads == expected
        assert options.get_session_config_entry("pocketspec.threads") == str(expected)
    assert PORTABLE.session_options(None).intra_op_num_threads == read_cores().usable


def test_no_session_has_more_threads_than_a_quota_allows(native_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.cores._quotas", lambda root: [(1.0, root)])
    for kernels in (Native(library.open_library(), native_bundle), PORTABLE):
        assert kernels.session_options(None).intra_op_num_threads == 1


def test_a_part_of_a_processor_is_used(native_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memory.cores._affinity", lambda: {0, 1})
    monkeypatch.setattr("memory.cores._quotas", lambda root: [(1.5, root)])
    for kernels in (Native(library.open_library(), native_bundle), PORTABLE):
        assert kernels.session_options(None).intra_op_num_threads == 2


def test_without_a_count_of_cores_onnx_runtime_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity")
    assert PORTABLE.session_options(None).intra_op_num_threads == 0


def test_the_command_line_says_which_kernels_ran(
    native_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    length = ["--max-new-tokens", "5", "--threads", "1", "--context", "64"]
    assert main(["generate", str(native_bundle), "Hi", *length]) == 0
    first = capsys.readouterr()
    assert "packing" not in first.err  # of so little nobody needs to be told
    assert main(["generate", str(native_bundle), "Hi", "--kernels", "native", *length]) == 0
    second = capsys.readouterr()
    assert (second.out, second.err) == (first.out, "")
    assert main(["inspect", str(native_bundle)]) == 0
    assert "  kernels: native (" in capsys.readouterr().out
    reason = no_library(native_bundle, monkeypatch)
    assert main(["generate", str(native_bundle), "Hi", *length]) == 0
    assert f": {reason}\n" in capsys.readouterr().err
    assert main(["generate", str(native_bundle), "Hi", "--kernels", "native", *length]) == 2
    assert capsys.readouterr().err == f"error: {reason}\n"
    assert main(["inspect", str(native_bundle)]) == 0
    assert f"  kernels: portable (ONNX Runtime's own), since {reason}\n" in capsys.readouterr().out


def test_plain_cpp_runs_only_for_those_who_ask(native_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_plain() -> library.Library:
        found = library.open_library()
        return replace(found, verdict=replace(found.verdict, isa="portable"))

    monkeypatch.setattr(choice, "open_library", open_plain)
    engine, notes = open_engine(native_bundle)
    assert kernels_of(engine) == ["portable", "portable"]
    assert "nothing faster than plain C++ for this processor" in told(notes)[0]
    engine, _ = open_engine(native_bundle, "native")
    assert kernels_of(engine) == ["native", "native"]
