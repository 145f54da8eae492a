"""What a user can get wrong: one clear line, exit code 2, and nothing left behind."""

from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    MambaConfig,
    OPTConfig,
)

from export.__main__ import main
from export.sources import hub
from export.writer.data_file import DataFile
from tests.conftest import TinyModels

INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"


_SIZES = {"vocab_size": 264, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
OPT = OPTConfig(ffn_dim=64, word_embed_proj_dim=32, **_SIZES)


class Refusal:
    """Runs command lines that must be refused and leave ``folder`` as it was."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.output = folder / "out"
        self._capsys = capsys

    def line(self, *words: object) -> str:
        """The one line that the command line ``words`` is answered with."""
        before = self._files()
        self._capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        line = self._capsys.readouterr().err
        assert line.startswith("error: ")
        assert line.count("\n") == 1
        assert self._files() == before
        return line

    def _files(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self.folder.rglob("*")}


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """In a working directory of its own, so that default outputs are seen too."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return Refusal(tmp_path, capsys)


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_models: TinyModels) -> Path:
    """A copy of the smallest model, to be damaged."""
    return Path(shutil.copytree(tiny_models.drafter, tmp_path / "checkpoint"))


@pytest.fixture
def sharded(checkpoint: Path) -> Path:
    """The copy with its weights in two files and an index."""
    tensors = load_file(checkpoint / "model.safetensors")
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, checkpoint / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (checkpoint / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (checkpoint / "model.safetensors").unlink()
    return checkpoint


def change_tensors(folder: Path, change: Callable[[dict[str, np.ndarray[Any, Any]]], object]) -> None:
    """Applies ``change`` to the tensors of an unsharded checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")


def change_config(folder: Path, **values: Any) -> None:
    """Replaces values in ``config.json``."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_missing_shard(refusal: Refusal, sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    line = refusal.line("--target", sharded, "--drafter", "none", "-o", refusal.output)
    assert "model-00002-of-00002.safetensors" in line
    assert "download the checkpoint again" in line


def test_a_truncated_shard(refusal: Refusal, sharded: Path) -> None:
    path = sharded / "model-00001-of-00002.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    line = refusal.line("--target", sharded, "--drafter", "none", "-o", refusal.output)
    assert path.name in line
    assert f"{size:,}" in line or str(size) in line


def test_a_tensor_of_the_wrong_shape(refusal: Refusal, checkpoint: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change_tensors(checkpoint, lambda tensors: tensors.update({name: tensors[name][:-1]}))
    line = refusal.line("--target", checkpoint, "--drafter", "none", "-o", refusal.output)
    assert name in line
    assert "127" in line
    assert "128" in line


def test_a_missing_tensor(refusal: Refusal, checkpoint: Path) -> None:
    name = "model.layers.0.self_attn.v_proj.weight"
    change_tensors(checkpoint, lambda tensors: tensors.pop(name))
    assert name in refusal.line("--target", checkpoint, "--drafter", "none", "-o", refusal.output)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MambaConfig(vocab_size=264, hidden_size=32, num_hidden_layers=1, state_size=4), "mamba"),
        (GPT2Config(vocab_size=264, n_embd=32, n_layer=1, n_head=2), "gpt2"),
        (OPT, "opt"),
        (FalconConfig(vocab_size=264, hidden_size=32, num_hidden_layers=1, num_attention_heads=2), "falcon"),
        (BloomConfig(vocab_size=264, hidden_size=32, n_layer=1, n_head=2), "bloom"),
    ],
)
def test_an_architecture_that_does_not_fit(refusal: Refusal, checkpoint: Path, config: Any, reason: str) -> None:
    for path in checkpoint.glob("*.safetensors"):
        path.unlink()
    AutoModelForCausalLM.from_config(config).save_pretrained(checkpoint)
    line = refusal.line("--target", checkpoint, "--drafter", "none", "-o", refusal.output)
    assert line.startswith(f"error: {reason}: ")
    assert not any(cryptic in line for cryptic in ("KeyError", "AttributeError", "object has no", "parameters"))


def test_a_kind_of_layer_that_the_model_does_not_have(refusal: Refusal, checkpoint: Path) -> None:
    AutoModelForCausalLM.from_config(Gemma3TextConfig(head_dim=16, num_key_value_heads=1, **_SIZES)).save_pretrained(
        checkpoint
    )
    change_config(checkpoint, layer_types=["chunked_attention"])
    line = refusal.line("--target", checkpoint, "--drafter", "none", "-o", refusal.output)
    assert "has no layers of the kind 'chunked_attention'" in line


def test_an_architecture_nobody_knows(refusal: Refusal, checkpoint: Path) -> None:
    change_config(checkpoint, model_type="mystery")
    assert "`mystery`" in refusal.line("--target", checkpoint, "--drafter", "none", "-o", refusal.output)
    change_config(checkpoint, auto_map={"AutoModelForCausalLM": "modeling_mystery.Model"})
    line = refusal.line("--target", checkpoint, "--drafter", "none", "-o", refusal.output)
    assert "code of checkpoints is never run" in line


def test_a_tokenizer_that_does_not_match(refusal: Refusal, checkpoint: Path, tiny_models: TinyModels) -> None:
    path = checkpoint / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<|im_start|>", "<|start|>"), encoding="utf-8")
    line = refusal.line("--target", tiny_models.target, "--drafter", checkpoint, "-o", refusal.output)
    assert "token 257 is '<|im_start|>' in" in line
    assert "and '<|start|>' in" in line


@pytest.mark.parametrize("option", ["--drafter", "--intermediate"])
def test_a_partner_of_another_family(refusal: Refusal, option: str) -> None:
    line = refusal.line("--target", "qwen2-7b", "--random-weights", option, "smollm2-135m")
    assert "smollm2-135m is of the family smollm2" in line
    assert "choose one of qwen2-0.5b" in line


def test_an_output_that_exists(refusal: Refusal, tiny_models: TinyModels) -> None:
    refusal.output.mkdir()
    (refusal.output / "precious.txt").write_text("mine")
    line = refusal.line("--target", tiny_models.target, "--drafter", "none", "-o", refusal.output)
    assert f"the output {refusal.output} exists" in line
    assert (refusal.output / "precious.txt").read_text() == "mine"


def test_an_output_that_is_a_file(refusal: Refusal, tiny_models: TinyModels) -> None:
    refusal.output.write_text("mine")
    line = refusal.line("--target", tiny_models.target, "--drafter", "none", "-o", refusal.output)
    assert str(refusal.output) in line


def test_a_disk_that_fills_up(refusal: Refusal, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: DataFile, position: int, array: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(DataFile, "write", write)
    line = refusal.line("--target", checkpoint, "--drafter", "none", "-o", refusal.output)
    assert "the disk is full" in line
    assert "free space" in line


def test_a_disk_that_is_too_small(refusal: Refusal, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000, 900, 100))
    line = refusal.line("--target", tiny_models.target, "--drafter", "none", "-o", refusal.output)
    assert "its disk has 100 free" in line


def test_no_network(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(model: str, **options: Any) -> str:
        raise errors.LocalEntryNotFoundError("Cannot find the requested files.\nPlease check your connection.")

    monkeypatch.setattr(hub, "snapshot_download", download)
    line = refusal.line("--target", "qwen2-1.5b")
    assert "no connection to the Hugging Face Hub and Qwen/Qwen2-1.5B-Instruct at revision ba1cf18" in line
    assert "--random-weights" in line


def test_a_gated_model(refusal: Refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(model: str, **options: Any) -> str:
        error = errors.GatedRepoError.__new__(errors.GatedRepoError)
        Exception.__init__(error, "401 Client Error.\nAccess is restricted.")
        raise error

    monkeypatch.setattr(hub, "snapshot_download", download)
    line = refusal.line("--target", "llama-3.2-1b")
    assert "is gated: accept its licence at https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct" in line
    assert "hf auth login" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "demo", "--quantt", "int4"], "unrecognized arguments: --quantt int4; see"),
        (["--target", "demo", "--quant", "int3"], "invalid choice: 'int3'"),
        (["--quant", "int4"], "the following arguments are required: --target"),
        (["--target", "qwen2-1.5"], "unknown target 'qwen2-1.5'; near: qwen2-1.5b"),
        (["--target", "qwen2-7b", "--drafter", "quen2-0.5b"], "unknown target 'quen2-0.5b'; near: qwen2-0.5b"),
        (["--target", "./absent"], "no folder './absent'"),
        (["--target", "qwen2-0.5b", "--random-weights", "--enlarge-like", "qwen2-7b"], "exclude each other"),
        (
            ["--target", "qwen2-0.5b", "--random-weights", "--quant-method", "magic"],
            "--quant-method 'magic' is unknown",
        ),
        (["--target", "qwen2-0.5b", "--random-weights", "--block-size", "48"], "--block-size 48 is not supported"),
        (["--target", "qwen2-0.5b", "--random-weights", "--positions", "99999999"], "99999999 positions asked"),
    ],
)
def test_options_that_mean_nothing(refusal: Refusal, words: list[str], message: str) -> None:
    assert message in refusal.line(*words)


def test_a_revision_of_a_folder(refusal: Refusal, checkpoint: Path) -> None:
    line = refusal.line("--target", checkpoint, "--revision", "main", "--drafter", "none")
    assert "is a folder and has no revision 'main'" in line


def test_pickled_weights(refusal: Refusal, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    line = refusal.line("--target", checkpoint, "--drafter", "none", "-o", refusal.output)
    assert "pickled weights (.bin) are never opened" in line


def test_a_model_that_cannot_be_enlarged(refusal: Refusal, checkpoint: Path) -> None:
    change_tensors(checkpoint, lambda tensors: tensors.update({"lm_head.weight": tensors[EMBEDDING] + 1}))
    words = ["--target", checkpoint, "--drafter", "none", "--enlarge-like", "qwen2-0.5b", "-o", refusal.output]
    assert "its head is not tied to its embedding" in refusal.line(*words)
