"""Bundles: what they hold, what is refused, and what an interrupted export leaves and resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export import bundle, level
from export.bundle import BundleError, export_bundle
from export.bundle_files import verify_files
from export.manifest import read_manifest
from export.report import SilentReporter
from export.request import ExportRequest, RequestError
from export.sources.vocabulary import VocabularyError
from runtime.text.template_data import TemplateInputs
from runtime.text.template_files import read_chat_template
from tests.conftest import TinyModels

pytestmark = pytest.mark.usefixtures("lowered_once")


@pytest.fixture
def request_(tiny_models: TinyModels, tmp_path: Path) -> ExportRequest:
    """Target and drafter in fp32, to a folder that does not exist yet."""
    drafters = (str(tiny_models.drafter),)
    return ExportRequest(str(tiny_models.target), tmp_path / "out", weights="fp32", drafters=drafters)


class Recorder(SilentReporter):
    """Notes the stages, and calls ``at`` with each."""

    def __init__(self, at: Callable[[str, str], None] = lambda level, what: None) -> None:
        self.stages: list[tuple[str, str]] = []
        self.finished: list[bool] = []
        self.notes: list[str] = []
        self._at = at

    def plan(self, output: Path, levels: Any, free_bytes: int) -> None:
        self.finished = [level.finished for level in levels]

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage(self, level: str, what: str, total_bytes: int | None = None) -> None:
        self.stages.append((level, what))
        self._at(level, what)


def _interrupt(level: str, what: str) -> Callable[[str, str], None]:
    def at(level_now: str, what_now: str) -> None:
        if (level_now, what_now) == (level, what):
            raise KeyboardInterrupt

    return at


def test_a_bundle_holds_what_its_manifest_says(tiny_bundle: Path) -> None:
    manifest = read_manifest(tiny_bundle)
    verify_files(tiny_bundle, manifest)
    files = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    # Whoever has opened the shared bundle before left what is stored per device.
    files = {file for file in files if not file.startswith(".device/")}
    assert files == {*manifest.files, "pocketspec.json"}
    assert {"model.onnx", "model.onnx.data", "config.json", "genai_config.json", "tokenizer.json"} <= files
    assert {"drafters/tiny-drafter/model.onnx", "drafters/tiny-drafter/config.json"} <= files
    assert [(level.name, level.role) for level in manifest.levels] == [
        ("tiny-target", "target"),
        ("tiny-drafter", "drafter"),
    ]
    assert [path for path in tiny_bundle.parent.iterdir() if path.name.endswith(".part")] == []


def test_levels_carry_shape_quantization_and_check(tiny_bundle: Path, tiny_bundle_int4: Path) -> None:
    exact, rounded = read_manifest(tiny_bundle).target, read_manifest(tiny_bundle_int4).target
    assert (exact.shape.layers, exact.shape.vocab_size, exact.shape.positions) == (2, 264, 512)
    assert exact.vocabulary.entries == 259
    assert exact.quantization.error is None
    assert exact.check is not None
    assert exact.check.max_difference < 1e-4
    assert exact.check.argmax_agreement == 1.0
    assert rounded.quantization.error is not None
    assert 0.05 < rounded.quantization.error < 0.15
    assert rounded.check is not None
    assert rounded.check.max_difference > 0.1
    assert rounded.weight_bytes < exact.weight_bytes / 3


def test_drafters_keep_the_order_given(request_: ExportRequest, tiny_models: TinyModels, tmp_path: Path) -> None:
    other = tmp_path / "another-one"
    shutil.copytree(tiny_models.drafter, other)
    ordered = replace(request_, drafters=(str(other), str(tiny_models.drafter)))
    manifest = read_manifest(export_bundle(ordered))
    assert [level.name for level in manifest.drafters()] == ["another-one", "tiny-drafter"]


@pytest.fixture
def exported(request_: ExportRequest, tiny_bundle: Path) -> ExportRequest:
    """The request, which has been carried out: the shared bundle is of the same one."""
    shutil.copytree(tiny_bundle, request_.output, ignore=shutil.ignore_patterns(".device"))
    return request_


def test_the_same_request_again_has_nothing_to_do(exported: ExportRequest) -> None:
    again = Recorder()
    assert export_bundle(exported, again) == exported.output
    assert again.stages == []


def test_an_output_of_another_request_is_refused(exported: ExportRequest) -> None:
    with pytest.raises(BundleError, match=r"output .*/out holds a bundle of another request; give another --output"):
        export_bundle(replace(exported, drafters=()))


def test_a_changed_bundle_is_refused(exported: ExportRequest) -> None:
    path = exported.output / "model.onnx.data"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"no complete bundle \(.*model.onnx.data was changed"):
        export_bundle(exported)


def test_a_folder_that_is_no_bundle_is_refused_and_left_alone(request_: ExportRequest) -> None:
    request_.output.mkdir()
    (request_.output / "thesis.txt").write_text("mine", "utf-8")
    with pytest.raises(BundleError, match=r"exists and is no complete bundle"):
        export_bundle(request_)
    assert (request_.output / "thesis.txt").read_text("utf-8") == "mine"


def test_changed_weights_are_another_request(request_: ExportRequest, tiny_models: TinyModels, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_models.target, copy)
    mine = replace(request_, target=str(copy), drafters=())
    export_bundle(mine)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    with pytest.raises(BundleError, match="another request"):
        export_bundle(mine)


@pytest.mark.parametrize("what", ["building the graph", "writing weights", "checking against the reference"])
def test_an_interruption_leaves_nothing_half_written(request_: ExportRequest, what: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        export_bundle(request_, Recorder(_interrupt("tiny-target", what)))
    assert list(request_.output.parent.iterdir()) == []


def test_a_second_run_resumes_from_complete_levels(request_: ExportRequest) -> None:
    with pytest.raises(KeyboardInterrupt):
        export_bundle(request_, Recorder(_interrupt("tiny-drafter", "writing weights")))
    assert not request_.output.exists()
    (part,) = request_.output.parent.iterdir()
    assert part.name.endswith(".part")
    assert not list(part.glob("drafters/*/*"))
    second = Recorder()
    export_bundle(request_, second)
    assert second.finished == [True, False]
    assert {level for level, _ in second.stages} == {"tiny-drafter"}
    assert list(request_.output.parent.iterdir()) == [request_.output]
    manifest = read_manifest(request_.output)
    verify_files(request_.output, manifest)
    assert manifest.target.check is not None


def test_leftovers_of_other_requests_are_named(request_: ExportRequest) -> None:
    with pytest.raises(KeyboardInterrupt):
        export_bundle(request_, Recorder(_interrupt("tiny-drafter", "writing weights")))
    (part,) = request_.output.parent.iterdir()
    second = Recorder()
    export_bundle(replace(request_, drafters=()), second)
    assert len(second.notes) == 1
    assert str(part) in second.notes[0]


def test_a_failing_check_keeps_nothing(request_: ExportRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise bundle.PocketspecError("wrong")

    monkeypatch.setattr(level, "check_level", fail)
    with pytest.raises(bundle.PocketspecError, match="wrong"):
        export_bundle(request_)
    assert list(request_.output.parent.iterdir()) == []


def test_too_little_disk_is_refused_before_anything_is_written(
    request_: ExportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_free_bytes", lambda _: 1000)
    with pytest.raises(BundleError, match=r"needs about [\d,]+ bytes and its disk has 1,000 free; free space"):
        export_bundle(request_)
    assert list(request_.output.parent.iterdir()) == []


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(
    request_: ExportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(level.shutil, "copyfile", fail)
    with pytest.raises(BundleError, match=r"the disk of .* is full, writing tiny-target; free space"):
        export_bundle(request_)
    assert list(request_.output.parent.iterdir()) == []


def test_another_tokenizer_is_refused_with_the_token(request_: ExportRequest, tmp_path: Path) -> None:
    other = tmp_path / "stranger"
    shutil.copytree(request_.drafters[0] if request_.drafters else "", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["!"], vocabulary['"'] = vocabulary['"'], vocabulary["!"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(VocabularyError, match=r"token 0 is '!' in .*tiny-target and '\"' in .*stranger"):
        export_bundle(replace(request_, drafters=(str(other),)))


def test_random_weights_need_no_checkpoint(tmp_path: Path, tiny_models: TinyModels) -> None:
    shape_alone = tmp_path / "shape"
    shape_alone.mkdir()
    shutil.copyfile(tiny_models.target / "config.json", shape_alone / "config.json")
    request = ExportRequest(str(shape_alone), tmp_path / "out", drafters=(), random_weights=True)
    level = read_manifest(export_bundle(request)).target
    assert level.source.kind == "random-weights"
    assert level.vocabulary.entries == 264
    assert level.check is not None
    assert level.check.text == "random tokens"


def test_chat_templates_that_go_by_a_name_come_along(
    request_: ExportRequest, tiny_models: TinyModels, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_models.target, checkpoint)
    (checkpoint / "additional_chat_templates").mkdir()
    (checkpoint / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools | length }} tools")
    bundle = export_bundle(replace(request_, target=str(checkpoint), drafters=()))
    assert "additional_chat_templates/tool_use.jinja" in read_manifest(bundle).files
    template = read_chat_template(bundle)
    assert template is not None
    assert template.render([{"role": "user", "content": "a"}], TemplateInputs(tools=[])) == "0 tools"


def test_a_calibrated_export_says_so(request_: ExportRequest, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("All happy families are alike; every unhappy family is unhappy in its own way. " * 100, "utf-8")
    calibrated = replace(request_, weights="int4", drafters=(), calibration_text=text)
    level = read_manifest(export_bundle(calibrated)).target
    assert level.quantization.method == "gptq"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, r"--quant-method 'magic' is unknown; one of rtn, search, gptq"),
        ({"method": "gptq"}, r"gptq needs --calibration-text FILE"),
        ({"random_weights": True, "enlarge_like": "qwen2-0.5b"}, r"exclude each other"),
        ({"block_size": 100}, r"--block-size 100 is not supported; one of 16, 32, 64, 128, 256"),
        ({"block_size": 32, "weights": "fp32"}, r"means nothing without int4 or int8"),
        ({"positions": 1}, r"--positions 1 is too few"),
        ({"check_text": Path("nowhere.txt")}, r"--check-text nowhere.txt: no such file"),
    ],
)
def test_contradictory_requests_are_refused(request_: ExportRequest, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        export_bundle(replace(request_, **{"weights": "int4", **changes}))


def test_a_drafter_that_is_the_target_gets_a_name_of_its_own(request_: ExportRequest) -> None:
    mirrored = replace(request_, drafters=(request_.target,))
    assert [level.name for level in read_manifest(export_bundle(mirrored)).levels] == [
        "tiny-target",
        "tiny-target-drafter",
    ]
    with pytest.raises(RequestError, match="given twice"):
        export_bundle(replace(request_, drafters=(request_.target, request_.target)))


def test_a_bundle_without_a_tokenizer_says_so_and_runs_on_token_ids(
    tiny_models: TinyModels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from runtime.__main__ import main

    checkpoint = shutil.copytree(tiny_models.target, tmp_path / "bare")
    for path in checkpoint.glob("*token*"):
        path.unlink()
    recorder = Recorder()
    out = export_bundle(ExportRequest(str(checkpoint), tmp_path / "out", weights="fp32", drafters=()), recorder)
    (note,) = recorder.notes
    assert f"no tokenizer.json in {checkpoint}, so the bundle takes token ids only" in note
    assert f"AutoTokenizer.from_pretrained('{checkpoint}')" in note
    assert main(["bench", str(out), "--tokens", "4", "--repeat", "1", "--count", "1", "--compare", "plain"]) == 0
    assert "1 prompts of random tokens" in capsys.readouterr().out
