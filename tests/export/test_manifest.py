"""The manifest's format: round trip, and one test per refusal including its text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export.bundle_files import sha256_of, verify_files
from export.manifest import (
    SCHEMA,
    DraftHeads,
    DraftVocabulary,
    ExpertShape,
    FileEntry,
    KvEffect,
    Level,
    LogitCheck,
    Manifest,
    ManifestError,
    ModelShape,
    NativeForm,
    ParallelDrafts,
    Quantization,
    SelfDraft,
    Source,
    Vocabulary,
    WideLayers,
    dump_manifest,
    parse_manifest,
    read_manifest,
    write_manifest,
)

TARGET = Level(
    name="tiny",
    role="target",
    folder=".",
    architecture="llama",
    source=Source("made/here", revision="abc", licence="mit"),
    shape=ModelShape(2, 64, 128, 4, 2, 16, 300, 128),
    vocabulary=Vocabulary(300, "0" * 64, (2, 3), 1),
    quantization=Quantization("int4", 32, "search", 0.01),
    graphs={"fp32": "model.onnx"},
    weight_bytes=1000,
    check=LogitCheck("text", 10, 0.1, 0.01, 0.99, 5.0, 5.1),
    kv_effects={"fp16": KvEffect(1.1, 64, "portable", 1.0), "int8": KvEffect(2.0, 64, "native")},
    agreement=0.5,
    sparse_bytes=100,
)
MANIFEST = Manifest("tiny", (TARGET,), {"model.onnx": FileEntry(3, "0" * 64)}, {"onnx": "1"})


def _parse_changed(**changes: Any) -> Manifest:
    data = json.loads(dump_manifest(MANIFEST)) | changes
    return parse_manifest(json.dumps(data), "m.json")


def test_what_is_written_is_read_back() -> None:
    assert parse_manifest(dump_manifest(MANIFEST), "m.json") == MANIFEST


def test_kinds_of_matrices_that_stay_floats_are_read_back_and_need_a_newer_reader() -> None:
    quantization = replace(TARGET.quantization, kept={"conv1d": "fp32", "gate": "fp16"})
    manifest = replace(MANIFEST, levels=(replace(TARGET, quantization=quantization),), schema=9)
    text = dump_manifest(manifest)
    assert parse_manifest(text, "m.json") == manifest
    with pytest.raises(ManifestError, match=r"quantization\.kept\.conv1d has the value 'fp31'"):
        parse_manifest(text.replace('"conv1d": "fp32"', '"conv1d": "fp31"'), "m.json")


@pytest.mark.parametrize(("schema", "newer"), [(1, 5), (2, 4), (3, 1)])
def test_older_schemas_are_read_and_lack_only_what_came_later(schema: int, newer: int) -> None:
    later = ["native", "kv_effects", "agreement", "sparse_bytes", "left_out"][-newer:]
    data = json.loads(dump_manifest(MANIFEST)) | {"schema": schema}
    for name in later:
        del data["levels"][0][name]
    level = parse_manifest(json.dumps(data), "m.json").target
    bare = {"native": None, "kv_effects": {}, "agreement": None, "sparse_bytes": 0, "left_out": {}}
    assert level == replace(TARGET, **{name: bare[name] for name in later})


def _parallel(**changes: Any) -> Manifest:
    """With a drafter that drafts in parallel, but for ``changes``."""
    drafter = replace(TARGET, name="small", role="drafter", folder="small", parallel=ParallelDrafts(299, 8))
    return replace(MANIFEST, levels=(TARGET, replace(drafter, **changes)))


@pytest.mark.parametrize(
    "fields",
    [
        {"attention_layers": 1},
        {"wide": WideLayers(1, 2, 32)},
        {"layer_table": 16},
        {"experts": ExpertShape(1, 8, 2, 48)},
    ],
    ids=lambda each: next(iter(each)),
)
def test_uneven_layers_need_a_reader_that_knows_them(fields: dict[str, Any]) -> None:
    (target, *others) = MANIFEST.levels
    uneven = replace(MANIFEST, levels=(replace(target, shape=replace(target.shape, **fields)), *others))
    read = parse_manifest(text := dump_manifest(uneven), "m.json")
    assert json.loads(text)["schema"] == (8 if "experts" in fields else 7)
    assert read.levels == uneven.levels


def with_head(**changes: Any) -> Manifest:
    """``MANIFEST`` with a tap after the last layer, and a drafter that reads it."""
    head = replace(TARGET, name="own", role="drafter", folder="own", reads=(2,))
    return replace(MANIFEST, levels=(replace(TARGET, taps=(2,)), replace(head, **changes)))


def test_drafters_that_read_hidden_rows_need_a_reader_that_knows_them() -> None:
    read = parse_manifest(text := dump_manifest(with_head()), "m.json")
    assert json.loads(text)["schema"] == 8
    assert read.levels == with_head().levels
    assert "taps" not in dump_manifest(MANIFEST)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"reads": (1,)}, "own reads the target after layer 1, where it has no tap"),
        ({"taps": (1,)}, "own is drafter, and its taps are those of another role"),
        ({"role": "intermediate"}, "own is intermediate, and its taps are those of another role"),
    ],
)
def test_taps_that_do_not_fit_are_refused(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ManifestError, match=fault):
        parse_manifest(dump_manifest(with_head(**changes)), "m.json")


def test_a_tap_behind_the_last_layer_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"has taps \[3\] in 2 layers"):
        parse_manifest(dump_manifest(replace(MANIFEST, levels=(replace(TARGET, taps=(3,)),))), "m.json")


@pytest.mark.parametrize("experts", [ExpertShape(1, 8, 9, 48), ExpertShape(3, 8, 2, 48)])
def test_more_experts_than_there_are_are_refused(experts: ExpertShape) -> None:
    (target, *others) = MANIFEST.levels
    sparse = replace(target, shape=replace(target.shape, experts=experts))
    with pytest.raises(ManifestError, match=r"uses . of 8 experts in . of 2 layers, which is more than there are"):
        parse_manifest(dump_manifest(replace(MANIFEST, levels=(sparse, *others))), "m.json")


def test_more_caches_than_layers_are_refused() -> None:
    (target, *others) = MANIFEST.levels
    for fields in ({"attention_layers": 3}, {"wide": WideLayers(3, 2, 32)}, {"wide": WideLayers(1, 3, 32)}):
        shape = replace(target.shape, **fields)
        with pytest.raises(ManifestError, match=r"more layers with a KV cache|over 3 KV heads"):
            parse_manifest(dump_manifest(replace(MANIFEST, levels=(replace(target, shape=shape), *others))), "m.json")


def test_only_levels_that_draft_in_parallel_need_a_reader_that_knows_them() -> None:
    text, plain = dump_manifest(_parallel()), dump_manifest(_parallel(parallel=None))
    assert [json.loads(each)["schema"] for each in (text, plain)] == [6, MANIFEST.schema]
    assert "parallel" not in plain
    levels = parse_manifest(text, "m.json").levels
    assert levels == _parallel().levels
    assert [level.drafts_trees for level in levels] == [True, False]
    assert [level.chain_within(12) for level in levels] == [12, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel": ParallelDrafts(300, 8)}, "small has the mask token 300 of 300"),
        ({"parallel": ParallelDrafts(-1, 8)}, "mask_token has the value -1"),
        ({"parallel": ParallelDrafts(1, 1)}, "longest has the value 1"),
        ({"parallel": ParallelDrafts(1, 65)}, "longest has the value 65"),
        ({"parallel": ParallelDrafts(1.5, 8)}, "mask_token has the value 1.5"),  # type: ignore[arg-type]
        ({"role": "intermediate"}, "small drafts in parallel, and is no drafter"),
    ],
)
def test_parallel_drafts_that_no_export_writes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)):
        parse_manifest(dump_manifest(_parallel(**changes)), "m.json")


def test_only_stacks_of_heads_need_a_reader_that_knows_them() -> None:
    shape = replace(TARGET.shape, layers=0)
    stack = with_head(shape=shape, heads=DraftHeads(3, 65, together=True))
    read = parse_manifest(text := dump_manifest(stack), "m.json")
    assert json.loads(text)["schema"] == SCHEMA == 9
    assert (read.levels, "heads" in json.loads(dump_manifest(with_head()))["levels"][1]) == (stack.levels, False)
    level = read.levels[1]
    assert (level.longest, level.chain_within(8), level.own_hidden, level.drafts_in_parallel) == (3, 3, 65, True)
    for changes in ({"shape": shape}, {"heads": DraftHeads(3, 65, True), "reads": ()}):
        with pytest.raises(ManifestError, match="own has neither layers nor heads that read the target"):
            parse_manifest(dump_manifest(with_head(**changes)), "m.json")
    with pytest.raises(ManifestError, match="count has the value 65"):
        parse_manifest(dump_manifest(with_head(heads=DraftHeads(65, 65, True))), "m.json")


def test_only_cut_vocabularies_need_a_reader_that_knows_them() -> None:
    cut = _parallel(draft_vocabulary=DraftVocabulary(120, "a.txt", 0.9), parallel=None)
    text = dump_manifest(cut)
    assert json.loads(text)["schema"] == 8
    assert "draft_vocabulary" not in dump_manifest(_parallel())
    levels = parse_manifest(text, "m.json").levels
    assert levels == cut.levels
    assert [level.logits_width for level in levels] == [300, 120]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draft_vocabulary": DraftVocabulary(301)}, "small has logits of 301 of 300 tokens"),
        ({"draft_vocabulary": DraftVocabulary(1)}, "tokens has the value 1"),
        ({"draft_vocabulary": DraftVocabulary(9, "a", 1.5)}, "covered has the value 1.5"),
        (
            {"role": "intermediate", "draft_vocabulary": DraftVocabulary(9), "parallel": None},
            "small has logits of a part of the vocabulary, and is no drafter",
        ),
    ],
)
def test_cut_vocabularies_that_no_export_writes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)):
        parse_manifest(dump_manifest(_parallel(**changes)), "m.json")


def test_order_of_keys_does_not_matter() -> None:
    data = json.loads(dump_manifest(MANIFEST))
    assert parse_manifest(json.dumps(dict(reversed(data.items()))), "m.json") == MANIFEST


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schema": SCHEMA + 1},
            f"m.json has schema {SCHEMA + 1}, this version reads up to {SCHEMA}; update pocketspec",
        ),
        ({"schema": None}, "m.json has no schema number; it is not a Pocketspec manifest"),
        ({"levels": []}, "m.json: it must describe exactly one target; export the bundle again"),
        ({"name": 3}, "m.json: field name has the value 3, expected str; export the bundle again"),
        ({"colour": "red"}, "m.json: unknown field colour; export the bundle again"),
        ({"files": {"a": {"bytes": 1}}}, "m.json: files.a lacks sha256; export the bundle again"),
        (
            {"levels": [json.loads(dump_manifest(MANIFEST))["levels"][0] | {"kv_effects": {"int8": {"luck": 1}}}]},
            "m.json: unknown field levels[0].kv_effects.int8.luck; export the bundle again",
        ),
        ({"files": {"a": 1}}, "m.json: field files.a must be an object; export the bundle again"),
    ],
)
def test_refusals_say_what_and_where(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError) as error:
        _parse_changed(**changes)
    assert str(error.value) == message


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"^m\.json is not JSON"):
        parse_manifest("{", "m.json")


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"^no pocketspec\.json in .*; make a bundle with python -m export$"):
        read_manifest(tmp_path)
    with pytest.raises(ManifestError, match="no such folder"):
        read_manifest(tmp_path / "nowhere")


def test_unknown_level_lists_the_levels_there_are() -> None:
    with pytest.raises(ManifestError, match="no level 'big' in bundle 'tiny'; it has: tiny"):
        MANIFEST.level("big")


def test_a_changed_missing_or_cut_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"abc")
    manifest = replace(MANIFEST, files={"model.onnx": FileEntry(3, sha256_of(path))})
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    verify_files(tmp_path, manifest)
    path.write_bytes(b"abd")
    with pytest.raises(ManifestError, match=r"model\.onnx was changed: its sha256"):
        verify_files(tmp_path, manifest)
    path.write_bytes(b"ab")
    with pytest.raises(ManifestError, match="has 2 bytes, its manifest says 3"):
        verify_files(tmp_path, manifest)
    path.unlink()
    with pytest.raises(ManifestError, match="is missing"):
        verify_files(tmp_path, manifest)


def _part(target: Level = TARGET, **changes: Any) -> Manifest:
    """With a drafter that is part of the target, but for ``changes``."""
    native = NativeForm({"fp32": "native.onnx"}, "native.json", "native.data", 100, 1)
    target = replace(target, native=native, quantization=Quantization("int8", 32))
    drafter = replace(target, name="part", role="drafter", graphs={}, weight_bytes=0, sparse_bytes=0)
    drafter = replace(drafter, self_draft=SelfDraft("halves"))
    return replace(MANIFEST, levels=(target, replace(drafter, **changes)))


def test_only_parts_of_a_target_need_a_reader_that_knows_them() -> None:
    text = dump_manifest(_part())
    assert json.loads(text)["schema"] == 8
    assert parse_manifest(text, "m.json").levels == _part().levels
    assert "self_draft" not in dump_manifest(MANIFEST)


@pytest.mark.parametrize(
    "changes",
    [
        {"folder": "part"},
        {"graphs": {"fp32": "model.onnx"}},
        {"weight_bytes": 1},
        {"native": None},
        {"role": "intermediate"},
        {"shape": replace(TARGET.shape, layers=TARGET.shape.layers + 1)},
        {"parallel": ParallelDrafts(1, 8)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_parts_that_no_export_writes_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="part is no part of the target"):
        parse_manifest(dump_manifest(_part(**changes)), "m.json")
