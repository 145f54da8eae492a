"""The levels of a request with all that is known before weights are read, and a key that identifies the request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from export.estimate import count_parameters
from export.graph.trace import GraphOptions
from export.heads.eagle3 import eagle3_head, is_eagle3, read_drafter_config
from export.heads.enlarged import enlarged_head
from export.heads.head import Head, HeadError
from export.heads.mtp import mtp_head
from export.heads.pard2 import has_projection, pard2_head
from export.heads.stack_formats import StackConfig, head_stack
from export.heads.tensors import own_tensors
from export.manifest import ModelShape, Tap, Vocabulary
from export.quantization.quantize import QUANTIZERS
from export.request import BITS, ExportJob, ExportRequest, RequestError
from export.sources.draft_vocabulary import ChosenTokens, choose_tokens
from export.sources.model_shape import refuse, shape_of
from export.sources.opened import ModelDescription, ModelOrigin, describe_model, open_checkpoint
from export.sources.targets import load_config
from export.sources.vocabulary import check_pair, read_vocabulary

# Smaller blocks have the better perplexity with either kernels, and cost 9% more bytes: on text they were made for,
# stories260k has 4.94 in blocks of 32 and 5.09 in blocks of 128, bitllama-3m 4.144 and 4.159
# (tests/runtime/kernels/test_quality.py).
DEFAULT_BLOCK_SIZE = 32
DEFAULT_METHOD, CALIBRATED_METHOD = "search", "gptq"
# Methods that need a calibration text, and methods that can use one.
_NEEDS_TEXT, _TAKES_TEXT = {"gptq"}, {"gptq", "search"}
_PACKAGES = ("pocketspec", "torch", "transformers", "onnxruntime", "onnx-ir")


@dataclass(frozen=True)
class LevelTask:
    """One level to export. ``block_size`` and ``method`` are None for float weights.

    ``head``: it is a prediction head of the model made from ``target``. ``taps``: where others read its hidden rows.
    ``logit_tokens`` are those that keep their logits; None: all.
    """

    job: ExportJob
    origin: ModelOrigin
    model: ModelDescription
    shape: ModelShape
    vocabulary: Vocabulary
    block_size: int | None
    method: str | None
    head: Head | None = None
    target: ModelOrigin | None = None
    taps: tuple[Tap, ...] = ()
    logit_tokens: ChosenTokens | None = None

    @cached_property
    def parameters(self) -> int:
        """The number of the model's weights."""
        head = self.head
        return count_parameters(self.model.config, None if head is None else lambda: head.build("eager"))

    @property
    def graph_options(self) -> GraphOptions:
        """How the level's graph is lowered."""
        width = None if self.logit_tokens is None else len(self.logit_tokens.ids)
        options = GraphOptions(self.job.weights, positions=self.shape.positions, logits_width=width)
        return options if self.block_size is None else replace(options, block_size=self.block_size)


def make_tasks(request: ExportRequest, jobs: Sequence[ExportJob]) -> list[LevelTask]:
    """The tasks of ``jobs``, target first; VocabularyError for partners with another vocabulary than the target's."""
    tasks: list[LevelTask] = []
    for job in jobs:
        origin = _origin(job, request)
        model = describe_model(origin, read_drafter_config if job.role == "drafter" else load_config)
        target = tasks[0] if tasks else None
        head = _head(job, model, target)
        if head is not None:
            if job.is_own and origin.target.folder is not None and not origin.random_weights:
                own_tensors(head, open_checkpoint(origin, model.config))  # before the target is exported
            model = _described(model, head)
        _check_vocabulary(model, target, head)
        shape = _shape(model, request, target)
        if head is not None and not head.has_layers:
            shape = replace(shape, layers=0)
        refuse(model.config, shape)  # before gigabytes are downloaded
        if target is None and request.int4_drafter and (shape.has_states or shape.experts):
            what = "states, which a drafter cannot share" if shape.has_states else "experts, which are read whole"
            raise RequestError(f"--int4-drafter: layers of {job.name} have {what}; drop it")
        vocabulary = _vocabulary(model, target)
        blocks = BITS[job.weights] <= 8
        size = (request.block_size or DEFAULT_BLOCK_SIZE) if blocks else None
        method = _method(request) if blocks else None
        target_origin = target.origin if target is not None else None
        kept = _logit_tokens(job, request, model, shape, vocabulary)
        tasks.append(
            LevelTask(job, origin, model, shape, vocabulary, size, method, head, target_origin, logit_tokens=kept)
        )
    taps = {tap for task in tasks if task.head is not None for tap in task.head.reads}
    return [replace(tasks[0], taps=tuple(sorted(taps))), *tasks[1:]]


def request_key(request: ExportRequest, tasks: Sequence[LevelTask]) -> str:
    """A hash of everything that determines the bundle: settings, texts, checkpoints, versions."""
    asked: dict[str, Any] = {**asdict(request), "output": None, "cache_dir": None, "versions": installed_versions()}
    for name in ("check_text", "calibration_text"):
        path = getattr(request, name)
        asked[name] = path and _hash(path)
    for name in ("texts", "table_texts"):
        asked[name] = [_hash(path) for path in getattr(request, name)]
    asked["levels"] = [(task.job, task.model.provenance, _fingerprint(task.model.folder)) for task in tasks]
    return hashlib.sha256(json.dumps(asked, default=str, sort_keys=True).encode()).hexdigest()


def installed_versions() -> dict[str, str]:
    """Versions of the packages that determine what an export contains."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # pocketspec itself, run from its folder
            found[name] = "not installed"
    return found


def _origin(job: ExportJob, request: ExportRequest) -> ModelOrigin:
    """What a job's model is made of; a revision is asked of the target alone."""
    return ModelOrigin(
        job.model,
        request.revision if job.role == "target" else None,
        request.cache_dir,
        request.random_weights,
        job.enlarge_like,
        request.positions,
    )


def _check_vocabulary(model: ModelDescription, target: LevelTask | None, head: Head | None) -> None:
    """VocabularyError for a partner with another vocabulary than the target's; heads may come without a tokenizer."""
    if target is None or target.model.folder is None or model.folder is None:
        return
    if head is None or (model.folder / "tokenizer.json").is_file():
        check_pair(target.model.folder, model.folder)


def _head(job: ExportJob, model: ModelDescription, target: LevelTask | None) -> Head | None:
    """The prediction head that a job is, if it is one; HeadError if the target has none, or it is of another target."""
    if target is None or job.role != "drafter":
        return None
    like, small = target.job.enlarge_like, replace(target.origin, enlarge_like=None)
    if isinstance(model.config, StackConfig):
        if like is not None:
            raise HeadError(
                f"{job.name}: stacks of heads are not enlarged with their target; drop --enlarge-like or it"
            )
        return head_stack(model.config, target.model.config)
    if like is None and has_projection(model.config, model.folder):
        return pard2_head(model.config, target.model.config)
    if not (job.is_own or is_eagle3(model.config)):
        return None
    if job.is_own:
        if like is not None:
            raise HeadError(
                f"{job.name}: this prediction head is not enlarged with its target; drop --enlarge-like or it"
            )
        return mtp_head(model.config)
    if like is None:
        return eagle3_head(model.config, target.model.config)
    return enlarged_head(eagle3_head(model.config, describe_model(small).config), like, target.model.config)


def _described(model: ModelDescription, head: Head) -> ModelDescription:
    """``model`` with the configuration of ``head``; an enlarged one is no trained model of that size."""
    kind = model.provenance.kind if head.small is None else "timing-vehicle"
    return replace(model, config=head.config, provenance=replace(model.provenance, kind=kind))


def _shape(model: ModelDescription, request: ExportRequest, target: LevelTask | None) -> ModelShape:
    """The shape of a level. A partner made for shorter contexts than the requested one keeps its own."""
    if target is None or request.positions is None:
        return shape_of(model.config, request.positions)
    return shape_of(model.config, min(request.positions, shape_of(model.config).positions))


def _method(request: ExportRequest) -> str:
    calibrated = request.calibration_text is not None
    method = request.method or (CALIBRATED_METHOD if calibrated else DEFAULT_METHOD)
    if method not in QUANTIZERS:
        raise RequestError(f"--quant-method {method!r} is unknown; one of {', '.join(QUANTIZERS)}")
    if method in _NEEDS_TEXT and not calibrated:
        raise RequestError(f"--quant-method {method} needs --calibration-text FILE; give one or take search")
    if calibrated and method not in _TAKES_TEXT:
        raise RequestError(f"--quant-method {method} has no use for --calibration-text; drop one of them")
    return method


def _vocabulary(model: ModelDescription, target: LevelTask | None) -> Vocabulary:
    """The model's own vocabulary; without a tokenizer the target's, or a mere size."""
    if model.folder is not None and (model.folder / "tokenizer.json").is_file():
        return read_vocabulary(model.folder)
    if target is not None:
        return target.vocabulary
    eos = model.config.eos_token_id
    ends = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
    return Vocabulary(model.config.vocab_size, "", ends, model.config.bos_token_id)


def _logit_tokens(
    job: ExportJob,
    request: ExportRequest,
    model: ModelDescription,
    shape: ModelShape,
    vocabulary: Vocabulary,
) -> ChosenTokens | None:
    """The tokens that keep their logits, of a drafter if the request cuts vocabularies; None: all."""
    if request.draft_vocab is None or job.role != "drafter":
        return None
    if request.enlarge_like is not None and shape.vocab_size <= request.draft_vocab:
        return None  # of a vocabulary as large as its target's, a small drafter would have had as many
    return choose_tokens(job.name, request.draft_vocab, model.folder, shape.vocab_size, vocabulary, request.texts)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fingerprint(folder: Path | None) -> list[tuple[str, int, int]]:
    """Name, size and time of the files of a checkpoint: changed weights are another request."""
    if folder is None:
        return []
    paths = sorted(path for pattern in ("*.json", "*.safetensors") for path in folder.glob(pattern))
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
