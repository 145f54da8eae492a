"""Models made on the spot and exported through the real pipeline: no network, no downloaded weights, seconds.

The target is a two-layer Llama with random weights, the drafter its first layer alone under the same embedding, so that
the two agree on some tokens and differ on others. Both speak bytes.
"""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.made_once import made_once
from tests.places import SHARED

# Whoever starts the tests in the background of a shell lets them ignore Ctrl-C, and so do the programs they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For torch, which splits matrices of a few rows among threads that then wait for each other: 8 times as slow beside
# another process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A machine that is busy is no failure.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
POSITIONS = 512

Lower = Callable[[Any, Any], Any]  # export.graph.trace.lower, which is not imported here: torch takes seconds


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Garbage is not looked for among what is imported, which stays to the end: 3 of 14 s of collecting tests, and
    0.15 s of every full collection in a test once torch is there."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@dataclass(frozen=True)
class TinyModels:
    """Checkpoint folders of the tiny target and its drafter."""

    target: Path
    drafter: Path


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is found out about this device is kept for the session alone, also by processes it starts.

    What a process takes without a model is measured once in a run, which takes seconds.
    """
    known = made_once(tmp_path_factory, "cache", _measure_processes)
    own = shutil.copytree(known, tmp_path_factory.mktemp("caches") / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETSPEC_CACHE", str(own))
        yield


def _measure_processes(folder: Path) -> None:
    from runtime.calibration.process_baseline import known_process

    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETSPEC_CACHE", str(folder))
        for kernels in ("portable", "native"):
            known_process(kernels)


@pytest.fixture(scope="session", autouse=True)
def _packing_here() -> Iterator[None]:
    """ONNX Runtime's weights are packed in this process: a process of its own for every new bundle takes a second."""
    from runtime.kernels.weights import prepacking
    from runtime.models.prepacker import write_pair

    def write_here(pair: prepacking.Pair, part: Path) -> str | None:
        shape = pair.level.shape
        return write_pair(pair.graph, part, (shape.kv_heads, shape.head_size))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepacking, "write_isolated", write_here)
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
    return _models_in(made_once(tmp_path_factory, "tiny-models", lambda folder: _save(_models_in(folder))))


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
def lowered_once(operators_read_once: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lower]:
    """From here on, exports build each graph once in a run, since torch takes seconds for every one, and time few
    steps of it."""
    from export import level
    from export.graph.recipe import LoweredGraph
    from export.graph.trace import GraphOptions
    from export.validation import kv_quality
    from tests.lowered_graphs import load_graph, save_graph

    lower = level.lower
    known: dict[Any, LoweredGraph] = {}

    def cached(config: Any, options: GraphOptions, taps: Sequence[int] = (), head: Any = None) -> LoweredGraph:
        described = head and (head.architecture, head.outputs, head.own_hidden)
        key = (config.to_json_string(), options, tuple(taps), described)
        if key not in known:
            name = hashlib.sha256(repr(key).encode()).hexdigest()
            made = made_once(
                tmp_path_factory, name, lambda folder: save_graph(lower(config, options, taps, head), folder)
            )
            known[key] = load_graph(made)
        return replace(known[key], model=known[key].model.clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(level, "lower", cached)
        patch.setattr(kv_quality, "_TURNS", 2)
        yield cached


@pytest.fixture(scope="session")
def tiny_bundle(request: pytest.FixtureRequest) -> Path:
    """The fp32 bundle of the tiny target with its drafter. Read-only: it is shared by the whole session."""
    return _tiny_bundle(request, "fp32")


@pytest.fixture(scope="session")
def tiny_bundle_int4(request: pytest.FixtureRequest) -> Path:
    """The int4 bundle of the tiny target with its drafter. Read-only: it is shared by the whole session."""
    return _tiny_bundle(request, "int4")


def _tiny_bundle(request: pytest.FixtureRequest, weights: str) -> Path:
    """A copy of the run's for this process: engines write beside what they open."""

    def make(output: Path) -> None:
        request.getfixturevalue("lowered_once")
        _export(request.getfixturevalue("tiny_models"), output, weights)

    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    made = made_once(factory, f"tiny-{weights}", make)
    return Path(shutil.copytree(made, factory.mktemp("bundles") / made.name))


def _export(models: TinyModels, output: Path, weights: str) -> None:
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


def _models_in(folder: Path) -> TinyModels:
    return TinyModels(folder / "tiny-target", folder / "tiny-drafter")


def _save(models: TinyModels) -> None:
    _save_models(models)
    for place in (models.target, models.drafter):
        _save_tokenizer(place)


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
