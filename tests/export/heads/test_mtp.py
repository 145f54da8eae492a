"""Qwen's prediction heads: the module computes what was published, and what is missing or does not fit is refused."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING

from export.heads.head import HeadError
from export.heads.mtp import mtp_head, mtp_name
from export.heads.tensors import HeadTensors
from export.request import ExportRequest, RequestError, make_jobs
from export.sources.checkpoint import Checkpoint
from export.sources.checkpoint_mapping import load_tensors
from export.sources.streamed_model import make_streamed
from export.tasks import make_tasks
from tests.export.heads.tiny_mtp import mtp_config, mtp_tensors, write_mtp_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint; read-only."""
    return write_mtp_checkpoint(tmp_path_factory.mktemp("mtp") / "tiny-mtp")


def published(weights: Mapping[str, torch.Tensor], config: Any, ids: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits from tensors under their own names, written from the published description, with the target's layer.

    ``hidden`` is behind the target's final norm.
    """
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5DecoderLayer, Qwen3_5TextRotaryEmbedding

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        scaled = x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()
        return scaled * (1 + weights[f"mtp.{name}.weight"])

    embedded = weights["model.embed_tokens.weight"][ids]
    x = torch.cat((norm(embedded, "pre_fc_norm_embedding"), norm(hidden, "pre_fc_norm_hidden")), -1)
    x = x @ weights["mtp.fc.weight"].T
    one = mtp_head(config).config
    one._attn_implementation = "eager"
    layer, rows = Qwen3_5DecoderLayer(one, 0), ids.shape[1]
    prefix = "mtp.layers.0."
    layer.load_state_dict({name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)})
    places = torch.arange(rows)[None, None].expand(3, 1, -1)
    mask = torch.full((rows, rows), -1e30).triu(1)[None, None]
    x = layer(x, Qwen3_5TextRotaryEmbedding(one)(x, places), attention_mask=mask)
    return norm(x, "norm") @ weights["lm_head.weight"].T


def test_the_module_computes_what_was_published(checkpoint: Path) -> None:
    config = mtp_config()
    weights = {name: value.float() for name, value in load_file(checkpoint / "model.safetensors").items()}
    with torch.no_grad():  # norms of one cannot be mixed up
        for name, value in weights.items():
            if value.ndim == 1 and (name.startswith("mtp.") or name == "model.norm.weight"):
                value.copy_(torch.randn(value.shape, generator=torch.manual_seed(len(name))) * 0.3)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    files = Checkpoint(checkpoint)
    source = HeadTensors(mtp_head(config), files, load_tensors(config, files)[1])
    ids, stream = torch.tensor([[3, 1, 4, 1, 5, 9]]), torch.randn(1, 6, 64)
    module = make_streamed(config, source, lambda: mtp_head(config).build("eager"))
    with torch.inference_mode():
        found = module(ids, stream, torch.zeros(1, 0, 64), use_cache=False).logits
        scaled = stream / (stream.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()
        expected = published(weights, config, ids, scaled * (1 + weights["model.norm.weight"]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", ["mtp.", "model.mtp.", "model.language_model.mtp."])
def test_tensors_are_known_under_any_wrapper(prefix: str) -> None:
    assert mtp_name(f"{prefix}fc.weight") == "fc.weight"
    assert mtp_name(f"{prefix}layers.0.mlp.up_proj.weight") == "model.layers.0.mlp.up_proj.weight"
    assert mtp_name("model.layers.0.mlp.up_proj.weight") is None


def source_of(tensors: Mapping[str, torch.Tensor], folder: Path) -> HeadTensors:
    """The head's tensors of a checkpoint whose head has ``tensors``."""
    folder.mkdir()
    save_file(dict(tensors), folder / "model.safetensors")
    head = mtp_head(mtp_config())
    return HeadTensors(head, Checkpoint(folder), _Shapes(head))


class _Shapes:
    """A target that has what a head shares."""

    def __init__(self, head: Any) -> None:
        with torch.device("meta"):
            module = head.build("eager")
        shapes = {name: tuple(value.shape) for name, value in module.named_parameters()}
        self._shapes = {**shapes, "model.norm.weight": shapes["target_norm.weight"]}

    def names(self) -> Any:
        return self._shapes.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str, first: int = 0, last: int | None = None) -> Any:
        raise AssertionError(name)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return mtp_tensors(mtp_config())


def test_a_whole_head_is_taken(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert {"fc.weight", "target_norm.weight", "model.norm.weight"} <= set(source_of(tensors, tmp_path / "c").names())


def test_a_checkpoint_without_its_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=r"the prediction head qwen3_5_mtp in .* is missing, .*; name another drafter"):
        source_of({"x": torch.zeros(1)}, tmp_path / "c")


def test_a_missing_head_is_refused_before_its_target_is_exported(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "c"))
    tensors = {name: value for name, value in load_file(folder / "model.safetensors").items() if "mtp." not in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    request = ExportRequest(str(folder), tmp_path / "bundle", drafters=("own",))
    with pytest.raises(HeadError, match="is missing, though its configuration may promise it"):
        make_tasks(request, make_jobs(request))


def test_half_a_head_is_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    some = {name: value for name, value in tensors.items() if ".mlp." not in name}
    with pytest.raises(HeadError, match=r"lacks 3 of its 15 tensors, 'model.layers.0.mlp.gate_proj.weight' first"):
        source_of(some, tmp_path / "c")


def test_a_head_of_another_size_is_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=r"wrong shape: 'mtp.fc.weight' \[64, 96\].* expects \[64, 128\]; it is not of"):
        source_of({**tensors, "mtp.fc.weight": torch.zeros(64, 96)}, tmp_path / "c")


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("llama", {}, "own: llama comes with no prediction head of its own; name a drafter, or none"),
        ("llama", {"num_nextn_predict_layers": 1}, "own: prediction heads of llama are not known"),
        ("qwen3_5_text", {"mtp_num_hidden_layers": 2}, "prediction heads of 2 layers; one layer is supported"),
        ("qwen3_5_text", {"mtp_use_dedicated_embeddings": True}, "an embedding of its own, which is not supported"),
        ("gemma4_text", {}, "own: the assistant of gemma4_text reads the KV cache of its target"),
    ],
)
def test_other_heads_are_refused(kind: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        mtp_head(CONFIG_MAPPING[kind](**fields))


def test_own_is_named_once(checkpoint: Path, tmp_path: Path) -> None:
    (_, job) = make_jobs(ExportRequest(str(checkpoint), tmp_path, drafters=("own",)))
    assert (job.role, job.folder, job.is_own) == ("drafter", "drafters/own", True)
    with pytest.raises(RequestError, match="drafter 'own' is given twice"):
        make_jobs(ExportRequest(str(checkpoint), tmp_path, drafters=("own", "own")))
