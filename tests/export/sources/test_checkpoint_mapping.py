"""A checkpoint means what transformers makes of it: every parameter, tied or not, under whatever name it is stored."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, MixtralConfig

from export.bundle import export_bundle
from export.manifest import PocketspecError
from export.report import SilentReporter
from export.request import ExportRequest
from export.sources import checkpoint_mapping as loading
from export.sources import expert_tensors
from export.sources.checkpoint import INDEX, Checkpoint
from export.sources.checkpoint_mapping import LoadedTensors, LoadingError, load_tensors
from export.sources.streamed_model import reference_logits
from export.validation.dequantized import NotWrittenError

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Tensors = dict[str, torch.Tensor]


def config_of(tied: bool) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )


def save(folder: Path, config: Any, change: Callable[[Tensors], object] = lambda tensors: None) -> Path:
    """A checkpoint of ``config`` with random weights that ``change`` has changed."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def load(folder: Path) -> tuple[Any, LoadedTensors]:
    return load_tensors(AutoConfig.from_pretrained(folder), Checkpoint(folder))


def separate_head(tensors: Tensors) -> None:
    tensors[HEAD] = torch.randn(96, 32)


def equal_head(tensors: Tensors) -> None:
    tensors[HEAD] = tensors[EMBEDDING].clone()


def head_alone(tensors: Tensors) -> None:
    tensors[HEAD] = tensors.pop(EMBEDDING)


def without_prefix(tensors: Tensors) -> None:
    for name in list(tensors):
        tensors[name.removeprefix("model.")] = tensors.pop(name)


def separate_without_prefix(tensors: Tensors) -> None:
    separate_head(tensors)
    without_prefix(tensors)


def equal_without_prefix(tensors: Tensors) -> None:
    equal_head(tensors)
    without_prefix(tensors)


def in_float64(tensors: Tensors) -> None:
    tensors.update({name: tensor.double() for name, tensor in tensors.items()})


def in_mixed_types(tensors: Tensors) -> None:
    for index, name in enumerate(sorted(tensors)):
        tensors[name] = tensors[name].to((torch.bfloat16, torch.float16, torch.float32)[index % 3])


def nothing(tensors: Tensors) -> None:
    pass


CASES = [
    (True, nothing),
    (False, nothing),
    (True, separate_head),
    (True, equal_head),
    (True, head_alone),
    (True, without_prefix),
    (False, without_prefix),
    (True, separate_without_prefix),
    (True, equal_without_prefix),
    (True, in_float64),
    (False, in_mixed_types),
]


@pytest.mark.parametrize(("tied", "change"), CASES)
def test_every_parameter_is_the_one_that_transformers_loads(
    tmp_path: Path, tied: bool, change: Callable[[Tensors], object]
) -> None:
    folder = save(tmp_path, config_of(tied), change)
    config, tensors = load(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    names = set(dict(model.named_parameters(remove_duplicate=False)))
    assert set(tensors.names()) == (names - {HEAD} if config.tie_word_embeddings else names)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        stored = EMBEDDING if name == HEAD and config.tie_word_embeddings else name
        np.testing.assert_array_equal(tensors.read(stored), parameter.detach().numpy(), err_msg=name)
    assert tensors.unexpected == ()
    tokens = [1, 5, 7, 3, 60, 2]
    with torch.inference_mode():
        wanted = model(torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(reference_logits(config, tensors, tokens), wanted, atol=1e-5)


@pytest.mark.parametrize(("change", "tied"), [(nothing, True), (equal_head, True), (separate_head, False)])
def test_the_configuration_says_whether_the_head_is_tied_in_fact(
    tmp_path: Path, change: Callable[[Tensors], object], tied: bool
) -> None:
    folder = save(tmp_path, config_of(tied=True), change)
    config, _ = load(folder)
    assert config.tie_word_embeddings is tied


def test_older_names_are_known(tmp_path: Path) -> None:
    config = GPTNeoXConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
    )
    folder = save(tmp_path, config)
    path = folder / "model.safetensors"
    save_file({name.replace("lm_head.", "embed_out."): value for name, value in load_file(path).items()}, path)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    _, tensors = load(folder)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(tensors.read(name), parameter.detach().numpy(), err_msg=name)


def test_a_whole_file_counts_before_an_index(tmp_path: Path) -> None:
    folder = save(tmp_path, config_of(tied=True))
    (folder / INDEX).write_text(json.dumps({"weight_map": {EMBEDDING: "model-00001-of-00002.safetensors"}}))
    _, tensors = load(folder)
    assert EMBEDDING in tensors.names()


def test_an_index_that_is_wrong_about_the_shard_does_no_harm(tmp_path: Path) -> None:
    folder = save(tmp_path, config_of(tied=True))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({EMBEDDING: tensors.pop(EMBEDDING)}, folder / "a.safetensors")
    save_file(tensors, folder / "b.safetensors")
    places = dict.fromkeys(tensors, "b.safetensors") | {EMBEDDING: "b.safetensors", "gone": "a.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    assert load(folder)[1].shape(EMBEDDING) == (96, 32)


def test_the_file_that_a_configuration_names_counts_alone(tmp_path: Path) -> None:
    folder = save(tmp_path, config_of(tied=True))
    tensors = {name: tensor + 1 for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "other.safetensors")
    read = Checkpoint(folder, "other.safetensors").read(EMBEDDING)
    np.testing.assert_array_equal(read, tensors[EMBEDDING].numpy())
    for name in ("absent.safetensors", "../model.bin", "config.json"):
        with pytest.raises(PocketspecError, match=rf"names '{re.escape(name)}' as its weights \(transformers_weights"):
            Checkpoint(folder, name)


def test_no_tensor_is_left_out_in_silence(tmp_path: Path) -> None:
    def add(tensors: Tensors) -> None:
        tensors["model.layers.7.mlp.up_proj.weight"] = torch.ones(2)
        tensors["layers.0.mlp.up_proj.weight"] = torch.ones(48, 32)  # the same parameter once more
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # old files have it, nobody needs it

    _, tensors = load(save(tmp_path, config_of(tied=True), add))
    assert set(tensors.unexpected) == {"model.layers.7.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"}


def drop_value(tensors: Tensors) -> None:
    del tensors["model.layers.0.self_attn.v_proj.weight"]


def drop_head(tensors: Tensors) -> None:
    del tensors[HEAD]


def cut_norm(tensors: Tensors) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()


def as_codes(tensors: Tensors) -> None:
    tensors["model.layers.0.self_attn.v_proj.weight"] = torch.ones(32, 16, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "settings", "text"),
    [
        (drop_value, {}, r"no tensor 'model.layers.0.self_attn.v_proj.weight' in .* \(1 of 12 are missing\), which"),
        (drop_head, {}, r"no tensor 'lm_head.weight' in .*; set tie_word_embeddings to true in config.json if its"),
        (
            cut_norm,
            {},
            r"'model.norm.weight' \[31\] in .* expects \[32\]; config.json and weights are not of one model",
        ),
        (nothing, {"quant_method": "bitsandbytes"}, r"says bitsandbytes, the weights are F32: remove quantization_con"),
        (as_codes, {"quant_method": "gptq"}, r"is quantized already \(gptq, weights in F32, U8\); start from the unq"),
    ],
)
def test_what_transformers_would_fill_or_convert_is_refused(
    tmp_path: Path, change: Callable[[Tensors], object], settings: dict[str, str], text: str
) -> None:
    folder = save(tmp_path, config_of(tied=False), change)
    config = AutoConfig.from_pretrained(folder)
    if settings:
        config.quantization_config = settings
    with pytest.raises(LoadingError, match=text) as caught:
        load_tensors(config, Checkpoint(folder))
    assert "\n" not in str(caught.value)


def test_a_shard_that_lacks_what_the_index_says_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, config_of(tied=True), drop_value)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    names = [*load_file(folder / "a.safetensors"), "model.layers.0.self_attn.v_proj.weight"]
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "a.safetensors")}))
    with pytest.raises(LoadingError, match=r"v_proj.* the index says it is in .*a.safetensors: download the checkpoi"):
        load(folder)


EXPERTS = MixtralConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    num_local_experts=12,
)
EXPERT = "model.layers.1.block_sparse_moe.experts.{}.w{}.weight"


def test_experts_are_stacked_as_transformers_stacks_them(tmp_path: Path) -> None:
    folder = save(tmp_path, EXPERTS)
    stored = load_file(folder / "model.safetensors")
    assert EXPERT.format(11, 2) in stored
    _, tensors = load(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, parameter in model.named_parameters():
        assert tensors.shape(name) == tuple(parameter.shape)
        np.testing.assert_array_equal(tensors.read(name), parameter.detach().numpy())
        np.testing.assert_array_equal(tensors.read(name, 3, 7), parameter.detach().numpy()[3:7])
    assert not tensors.unexpected
    assert set(tensors.names()) == set(dict(model.named_parameters()))


def without_an_expert(tensors: Tensors) -> None:
    del tensors[EXPERT.format(4, 3)]


def one_expert_more(tensors: Tensors) -> None:
    for kind in (1, 2, 3):
        tensors[EXPERT.format(12, kind)] = tensors[EXPERT.format(0, kind)].clone()


def a_smaller_expert(tensors: Tensors) -> None:
    tensors[EXPERT.format(5, 2)] = tensors[EXPERT.format(5, 2)][:, :40].clone()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (without_an_expert, r"no tensor '.*experts.4.w3.weight' in .* \(1 of 12 experts are missing\); download"),
        (one_expert_more, r"has 13 experts like .*, its config.json says 12: they are not of one model"),
        (
            a_smaller_expert,
            r"'.*experts.5.w2.weight' .* has shape \[32, 40\], .* \[32, 48\]: matrices of experts have one",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_experts_that_do_not_make_a_stack_are_refused(
    tmp_path: Path, change: Callable[[Tensors], object], text: str
) -> None:
    with pytest.raises(PocketspecError, match=text) as refusal:
        load(save(tmp_path, EXPERTS, change))
    assert "\n" not in str(refusal.value)


def test_tensors_that_transformers_would_rearrange_otherwise_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path, EXPERTS)
    monkeypatch.setattr(expert_tensors, "_only_stacks", lambda converter: False)
    with pytest.raises(LoadingError, match=r"is stored in a form that transformers rearranges into .* for mixtral"):
        load(folder)


def test_an_adapter_alone_is_no_model(tmp_path: Path) -> None:
    folder = save(tmp_path, config_of(tied=True))
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(PocketspecError, match="merge the adapter into its base model"):
        Checkpoint(folder)


def swapped(model: Any, checkpoint: Checkpoint) -> tuple[dict[str, str], dict[str, str]]:
    origins, left = ASSIGN(model, checkpoint)
    key, value = (f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "kv")
    return origins | {key: value, value: key}, left


ASSIGN = loading._assign


def test_a_mistake_of_ours_about_names_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path, config_of(tied=True))
    monkeypatch.setattr(loading, "_assign", swapped)
    with pytest.raises(
        LoadingError, match=r"transformers does not give '.*k_proj.weight' the tensor '.*v_proj.weight'"
    ):
        load(folder)


def test_a_mistake_of_ours_about_ties_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path, config_of(tied=True), separate_head)
    monkeypatch.setattr(loading, "_tie", lambda *given: ({HEAD: EMBEDDING}, False))
    with pytest.raises(LoadingError, match=r"does not give 'lm_head.weight' the tensor 'model.embed_tokens.weight'"):
        load(folder)


def test_a_graph_without_a_tensor_of_the_model_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import level

    lower = level.lower

    def tie_all_the_same(config: Any, *options: Any) -> Any:
        return lower(type(config).from_dict({**config.to_dict(), "tie_word_embeddings": True}), *options)

    folder = save(tmp_path / "checkpoint", config_of(tied=True), separate_head)
    monkeypatch.setattr(level, "lower", tie_all_the_same)
    with pytest.raises(NotWrittenError, match=r"the model uses lm_head\.weight, and its graph does not"):
        export_bundle(ExportRequest(str(folder), tmp_path / "out", weights="fp32", drafters=()))


def test_a_head_of_its_own_is_exported_and_others_are_noted(tmp_path: Path) -> None:
    from tests.export.graph.test_kv_variants import open_graph

    def change(tensors: Tensors) -> None:
        separate_head(tensors)
        tensors["extra.weight"] = torch.ones(2)

    class Recorder(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    folder = save(tmp_path / "checkpoint", config_of(tied=True), change)
    bundle = export_bundle(ExportRequest(str(folder), tmp_path / "out", weights="fp32", drafters=()), Recorder())
    tokens = [1, 5, 7, 3, 60, 2]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        wanted = model(torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(open_graph(bundle, "fp32").forward(tokens).logits, wanted, atol=1e-4)
    assert "checkpoint: 1 tensors of the checkpoint belong to no part of its decoder: extra.weight" in notes
