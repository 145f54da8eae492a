"""The Hugging Face Hub: what is asked for, and one line for whatever goes wrong. No network is used."""

from __future__ import annotations

import errno
import fnmatch
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors

from export.sources import hub
from export.sources.hub import HubError, check_folder, fetch_checkpoint, resolved_revision

COMMIT = "ba1cf1846d7df0a0591d6c00649f57e798519da8"


def make_folder(folder: Path, **config: Any) -> Path:
    """A folder that looks like a checkpoint with one file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (folder / "model.safetensors").touch()
    return folder


def hub_error(kind: type[errors.HfHubHTTPError], status: int = 403) -> errors.HfHubHTTPError:
    """An error as the library raises it, without a server."""
    error = kind.__new__(kind)
    Exception.__init__(error, "line one\nline two")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
    return error


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces the download by a ready snapshot; the calls made are returned."""
    snapshot = make_folder(tmp_path / "models--o--m" / "snapshots" / COMMIT)
    made: list[dict[str, Any]] = []

    def download(model: str, **options: Any) -> str:
        made.append({"model": model, **options})
        return str(snapshot)

    monkeypatch.setattr(hub, "snapshot_download", download)
    return made


def test_a_folder_is_taken_as_it_is(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    folder = make_folder(tmp_path / "model")
    assert fetch_checkpoint(folder) == folder
    assert fetch_checkpoint(str(folder)) == folder
    assert resolved_revision(folder) is None
    assert calls == []
    with pytest.raises(HubError, match="is a folder and has no revision 'v1'"):
        fetch_checkpoint(folder, revision="v1")


def test_a_mirror_needs_no_network(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    folder = make_folder(tmp_path / "mirror" / "owner" / "model")
    assert fetch_checkpoint("owner/model", cache_dir=tmp_path / "mirror") == folder
    assert calls == []


def test_the_configuration_comes_first_and_the_commit_is_known(calls: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = fetch_checkpoint("owner/model", revision="main", cache_dir=tmp_path / "cache")
    assert resolved_revision(folder) == COMMIT
    assert calls[0]["allow_patterns"] == ["config.json"]
    assert all((call["revision"], call["cache_dir"]) == ("main", tmp_path / "cache") for call in calls)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("config.json", True),
        ("model-00001-of-00002.safetensors", True),
        ("model.safetensors.index.json", True),
        ("tokenizer.json", True),
        ("chat_template.jinja", True),
        ("additional_chat_templates/tool_use.jinja", True),
        ("onnx/tokenizer.json", False),
        ("LICENSE.txt", True),
        ("pytorch_model.bin", False),
        ("modeling_phi3.py", False),
        ("onnx/model.safetensors", False),
        ("consolidated.safetensors", False),
        ("original/consolidated.00.pth", False),
        ("training_args.json", False),
    ],
)
def test_only_safe_files_are_asked_for(name: str, wanted: bool, calls: list[dict[str, Any]]) -> None:
    fetch_checkpoint("owner/model")
    allowed = any(fnmatch.fnmatch(name, pattern) for pattern in calls[-1]["allow_patterns"])
    ignored = any(fnmatch.fnmatch(name, pattern) for pattern in calls[-1]["ignore_patterns"])
    assert (allowed and not ignored) == wanted


def test_without_weights_only_text_files_come(calls: list[dict[str, Any]]) -> None:
    fetch_checkpoint("owner/model", weights=False)
    assert "tokenizer.json" in calls[-1]["allow_patterns"]
    assert not any("safetensors" in pattern for call in calls for pattern in call["allow_patterns"])


@pytest.mark.parametrize(
    ("make_error", "message"),
    [
        (
            lambda: hub_error(errors.GatedRepoError),
            r"^o/m is gated: accept its licence at https://huggingface\.co/o/m, then log in with `hf auth login`",
        ),
        (lambda: hub_error(errors.RepositoryNotFoundError, 404), "^no model 'o/m' on the Hugging Face Hub"),
        (lambda: hub_error(errors.RevisionNotFoundError, 404), "^o/m has no revision 'v9'"),
        (lambda: hub_error(errors.HfHubHTTPError, 503), "^the Hugging Face Hub answered 503 for o/m at revision v9"),
        (lambda: errors.LocalEntryNotFoundError("a\nb"), "^no connection to the Hugging Face Hub and o/m"),
        (lambda: errors.OfflineModeIsEnabled("offline"), "^no connection to the Hugging Face Hub and o/m"),
        (lambda: hub._TRANSPORT_ERROR("reset by peer"), "^no connection to the Hugging Face Hub and o/m"),
        (lambda: errors.HFValidationError("bad"), "^'o/m' is not a Hugging Face id; expected owner/model"),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), "^the disk is full while downloading o/m"),
        (lambda: PermissionError(errno.EACCES, "Permission denied"), "^cannot download o/m .*Permission denied"),
    ],
)
def test_every_failure_is_one_line(
    make_error: Callable[[], Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(model: str, **options: Any) -> str:
        raise make_error()

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(HubError, match=message) as caught:
        fetch_checkpoint("o/m", revision="v9")
    assert "\n" not in str(caught.value)


def test_code_of_a_checkpoint_is_refused_unless_it_is_not_needed(tmp_path: Path) -> None:
    auto_map = {"AutoModelForCausalLM": "modeling_x.X"}
    assert check_folder(make_folder(tmp_path / "phi", model_type="phi3", auto_map=auto_map))
    with pytest.raises(HubError, match=r"architecture 'mystery', which transformers does not have; code .* never run"):
        check_folder(make_folder(tmp_path / "mystery", model_type="mystery", auto_map=auto_map))


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"no config\.json in"):
        check_folder(tmp_path)
    folder = make_folder(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert check_folder(folder, weights=False) == folder
    with pytest.raises(HubError, match=r"no safetensors weights in .*pickled weights \(\.bin\) are never opened"):
        check_folder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(HubError, match=r"config\.json is not JSON"):
        check_folder(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(HubError, match="holds a list, expected an object"):
        check_folder(folder)


def test_the_real_library_finds_its_cache_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--owner--model"
    make_folder(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for revision in (None, "main", COMMIT):
        folder = fetch_checkpoint("owner/model", revision=revision, cache_dir=tmp_path)
        assert resolved_revision(folder) == COMMIT
    with pytest.raises(HubError, match=r"^no connection to the Hugging Face Hub and owner/other is not in the cache"):
        fetch_checkpoint("owner/other", cache_dir=tmp_path)
    with pytest.raises(HubError, match=r"^'own er/model' is not a Hugging Face id"):
        fetch_checkpoint("own er/model", cache_dir=tmp_path)
