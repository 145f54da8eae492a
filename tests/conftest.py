"""Models made on the spot and exported through the real pipeline: no network, no downloaded weights, seconds.

The target is a two-layer Llama with random weights, the drafter its first layer alone under the same embedding, so that
the two agree on some tokens and differ on others. Both speak bytes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.places import SHARED

# Whoever starts the tests in the background of a shell lets them ignore Ctrl-C, and so do the programs they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For torch, which splits matrices of a few rows among threads that then wait for each other: 8 times as slow beside
# another process.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
POSITIONS = 512


@dataclass(frozen=True)
class TinyModels:
    """Checkpoint folders of the tiny target and its drafter."""

    target: Path
    drafter: Path


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is found out about this device is kept for the session alone, also by processes it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETSPEC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and texts beside the repository; skips where there is none."""
    folder = SHARED
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """HF checkpoints of a two-layer target and a one-layer drafter, with one tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-models")
    models = TinyModels(folder / "tiny-target", folder / "tiny-drafter")
    _save_models(models)
    for place in (models.target, models.drafter):
        _save_tokenizer(place)
    return models


@pytest.fixture(scope="session")
def operators_read_once() -> Iterator[None]:
    """torch reads the sources of all of onnxscript's operators for every graph it exports: a sixth of the time."""
    from torch.onnx._internal.exporter import _registration

    with pytest.MonkeyPatch.context() as patch:
        apis = getattr(_registration, "onnxscript_apis", None)
        if hasattr(apis, "get_torchlib_ops"):
            patch.setattr(apis, "get_torchlib_ops", cache(apis.get_torchlib_ops))
        yield


@pytest.fixture(scope="session")
def lowered_once(operators_read_once: None) -> Iterator[None]:
    """From here on, exports in this process build each graph once: torch takes seconds for every one."""
    from export import level
    from export.graph.recipe import LoweredGraph
    from export.graph.trace import GraphOptions

    lower = level.lower
    known: dict[tuple[str, GraphOptions], LoweredGraph] = {}

    def cached(config: Any, options: GraphOptions) -> LoweredGraph:
        key = (config.to_json_string(), options)
        if key not in known:
            known[key] = lower(config, options)
        return replace(known[key], model=known[key].model.clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(level, "lower", cached)
        yield


@pytest.fixture(scope="session")
def tiny_bundle(lowered_once: None, tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle of the tiny target with its drafter. Read-only: it is shared by the whole session."""
    return _export(tiny_models, tmp_path_factory.mktemp("bundles") / "tiny-fp32", "fp32")


@pytest.fixture(scope="session")
def tiny_bundle_int4(lowered_once: None, tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The int4 bundle of the tiny target with its drafter. Read-only: it is shared by the whole session."""
    return _export(tiny_models, tmp_path_factory.mktemp("bundles") / "tiny-int4", "int4")


def _export(models: TinyModels, output: Path, weights: str) -> Path:
    from export.bundle import export_bundle
    from export.request import ExportRequest

    request = ExportRequest(
        target=str(models.target),
        output=output,
        weights=weights,  # type: ignore[arg-type]
        drafters=(str(models.drafter),),
    )
    bundle = export_bundle(request)
    assert not list(bundle.rglob("native.data")), "measuring leaves weights packed for this device in the bundle"
    return bundle


def _save_models(models: TinyModels) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256 + len(SPECIAL) + 5,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=256 + SPECIAL.index("<|im_end|>"),
        pad_token_id=256,
        initializer_range=0.15,
    )
    target = LlamaForCausalLM(config)
    target.save_pretrained(models.target)
    config.num_hidden_layers = 1
    drafter = LlamaForCausalLM(config)
    drafter.load_state_dict({name: value for name, value in target.state_dict().items() if ".layers.1." not in name})
    drafter.save_pretrained(models.drafter)


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
