"""The models known by name: where their weights are, under which licence, and which of them work together.

A plain name means the variant tuned for conversation, since that is what people run; a base model is reached by its
Hugging Face id. ``export/configs/<name>.json`` is each model's own ``config.json``, so shapes need no network; of
models that see and hear it is the text part. They were compared with the published files (or unchanged copies in
fine-tunes), and each parameter count equals the published one; ``export/configs/README.md`` names the source of the
others. Revisions are commits that public projects pin for exactly that id; where none was found it is the newest.

Partners share the target's tokenizer. An intermediate pays only where the target costs at least 15 times as much (a
prototype with less lost to its drafter alone: 0.6 x) and a cheaper drafter of the family exists below it. Among the
known names no family is that deep, so none is suggested.
The demo's sizes are too close for one as they are: ``--intermediate demo-intermediate`` is for enlarged targets.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.manifest import PocketspecError
from export.sources.head_formats import refuse_heads
from export.sources.mxfp4 import without_packing
from export.sources.text_part import text_config

_CONFIGS = Path(__file__).parents[1] / "configs"
_DEMO = Path(__file__).parents[1] / "demo"


class UnknownTargetError(PocketspecError, ValueError):
    """A name that is neither known, nor a Hugging Face id, nor a folder."""


class FamilyError(PocketspecError, ValueError):
    """A partner that is known to have another tokenizer than its target."""


class ConfigError(PocketspecError, ValueError):
    """A configuration that transformers does not understand."""


@dataclass(frozen=True)
class Target:
    """A model to export, from ``folder`` or else from ``hub_id``, and the names of its suggested partners.

    ``revision`` is a commit, a branch or a tag; None means the newest. ``family`` names the tokenizer; None for models
    that are not known by name.
    """

    name: str
    hub_id: str | None = None
    folder: Path | None = None
    revision: str | None = None
    licence: str | None = None
    gated: bool = False
    family: str | None = None
    drafters: tuple[str, ...] = ()
    intermediate: str | None = None

    @property
    def config_path(self) -> Path | None:
        """The model's ``config.json`` if it is available without a network, else None."""
        if self.folder is not None:
            return self.folder / "config.json"
        path = _CONFIGS / f"{self.name}.json"
        return path if self.family is not None else None


def _known(
    name: str, hub_id: str, revision: str | None, family: str, licence: str = "apache-2.0", **more: Any
) -> Target:
    return Target(name, hub_id, None, revision, licence, family=family, **more)


def _demo(name: str, size: str, **more: Any) -> Target:
    """A model of the demo. Its licence demands the name's beginning, since Llama 3.1 wrote its training text."""
    return Target(name, folder=_DEMO / f"Llama-Pocketspec-{size}", licence="llama3.1", family="demo", **more)


# Qwen2 and Qwen2.5 share words but not every special token, so they are two families; so are SmolLM 2 and 3.
_TARGETS = (
    _demo("demo", "9M", drafters=("demo-drafter",)),
    _demo("demo-intermediate", "6M", drafters=("demo-drafter",)),
    _demo("demo-drafter", "0.6M"),
    _known("qwen2-0.5b", "Qwen/Qwen2-0.5B-Instruct", "c540970f9e29518b1d8f06ab8b24cba66ad77b6d", "qwen2"),
    _known(
        "qwen2-1.5b",
        "Qwen/Qwen2-1.5B-Instruct",
        "ba1cf1846d7df0a0591d6c00649f57e798519da8",
        "qwen2",
        drafters=("qwen2-0.5b",),
    ),
    _known(
        "qwen2-7b",
        "Qwen/Qwen2-7B-Instruct",
        "f2826a00ceef68f0f2b946d945ecc0477ce4450c",
        "qwen2",
        drafters=("qwen2-0.5b",),
    ),
    _known("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct", "7ae557604adf67be50417f59c2c2f167def9a775", "qwen2.5"),
    _known(
        "qwen2.5-1.5b",
        "Qwen/Qwen2.5-1.5B-Instruct",
        "989aa7980e4cf806f80c7fef2b1adb7bc71aa306",
        "qwen2.5",
        drafters=("qwen2.5-0.5b",),
    ),
    _known(
        "qwen2.5-3b",
        "Qwen/Qwen2.5-3B-Instruct",
        "aa8e72537993ba99e69dfaafa59ed015b17504d1",
        "qwen2.5",
        "qwen-research",
        drafters=("qwen2.5-0.5b",),
    ),
    _known(
        "qwen2.5-7b",
        "Qwen/Qwen2.5-7B-Instruct",
        "a09a35458c702b33eeacc393d103063234e8bc28",
        "qwen2.5",
        drafters=("qwen2.5-0.5b",),
    ),
    _known("qwen3-0.6b", "Qwen/Qwen3-0.6B", "c1899de289a04d12100db370d81485cdf75e47ca", "qwen3"),
    _known(
        "qwen3-1.7b",
        "Qwen/Qwen3-1.7B",
        "70d244cc86ccca08cf5af4e1e306ecf908b1ad5e",
        "qwen3",
        drafters=("qwen3-0.6b",),
    ),
    _known(
        "qwen3-4b",
        "Qwen/Qwen3-4B",
        "1cfa9a7208912126459214e8b04321603b3df60c",
        "qwen3",
        drafters=("qwen3-0.6b",),
    ),
    _known(
        "llama-3.2-1b",
        "meta-llama/Llama-3.2-1B-Instruct",
        "9213176726f574b556790deb65791e0c5aa438b6",
        "llama-3.2",
        "llama3.2",
        gated=True,
    ),
    _known(
        "llama-3.2-3b",
        "meta-llama/Llama-3.2-3B-Instruct",
        "0cb88a4f764b7a12671c53f0838cd831a0843b95",
        "llama-3.2",
        "llama3.2",
        gated=True,
        drafters=("llama-3.2-1b",),
    ),
    _known(
        "smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac", "smollm2"
    ),
    _known(
        "smollm2-360m",
        "HuggingFaceTB/SmolLM2-360M-Instruct",
        "a10cc1512eabd3dde888204e902eca88bddb4951",
        "smollm2",
        drafters=("smollm2-135m",),
    ),
    _known(
        "smollm2-1.7b",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "31b70e2e869a7173562077fd711b654946d38674",
        "smollm2",
        drafters=("smollm2-135m",),
    ),
    _known("smollm3-3b", "HuggingFaceTB/SmolLM3-3B", "a07cc9a04f16550a088caea529712d1d335b0ac1", "smollm3"),
    _known(
        "gemma-3-1b", "google/gemma-3-1b-it", "dcc83ea841ab6100d6b47a070329e1ba4cf78752", "gemma-3", "gemma", gated=True
    ),
    _known(
        "phi-3.5-mini", "microsoft/Phi-3.5-mini-instruct", "2fe192450127e6a83f7441aef6e3ca586c338b77", "phi-3.5", "mit"
    ),
    _known(
        "tinyllama-1.1b",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "fe8a4ea1ffedaf415f4da2f062534de366a451e6",
        "tinyllama",
    ),
    _known("ministral-3-3b", "mistralai/Ministral-3-3B-Instruct-2512-BF16", None, "ministral-3"),
    _known("ministral-3-8b", "mistralai/Ministral-3-8B-Instruct-2512-BF16", None, "ministral-3"),
    _known(
        "phi-4-mini", "microsoft/Phi-4-mini-instruct", "cfbefacb99257ffa30c83adab238a50856ac3083", "phi-4-mini", "mit"
    ),
    _known("exaone-4-1.2b", "LGAI-EXAONE/EXAONE-4.0-1.2B", None, "exaone-4", "exaone"),
    _known("hunyuan-1.8b", "tencent/Hunyuan-1.8B-Instruct", None, "hunyuan", "tencent-hunyuan"),
    _known("hunyuan-4b", "tencent/Hunyuan-4B-Instruct", None, "hunyuan", "tencent-hunyuan"),
    _known("hunyuan-7b", "tencent/Hunyuan-7B-Instruct", None, "hunyuan-7b", "tencent-hunyuan"),
    _known("olmo-3-7b", "allenai/Olmo-3-7B-Instruct", None, "olmo-3"),
    _known("qwen3.5-0.8b", "Qwen/Qwen3.5-0.8B", "2fc06364715b967f1860aea9cf38778875588b17", "qwen3.5"),
    _known("qwen3.5-4b", "Qwen/Qwen3.5-4B", None, "qwen3.5", drafters=("qwen3.5-0.8b",)),
    _known("qwen3.5-9b", "Qwen/Qwen3.5-9B", None, "qwen3.5", drafters=("qwen3.5-0.8b",)),
    _known("gemma-4-e2b", "google/gemma-4-E2B-it", None, "gemma-4"),
    _known("gemma-4-e4b", "google/gemma-4-E4B-it", None, "gemma-4"),
    _known("gemma-3n-e2b", "google/gemma-3n-E2B-it", None, "gemma-3n", "gemma", gated=True),
    _known("gemma-3n-e4b", "google/gemma-3n-E4B-it", None, "gemma-3n", "gemma", gated=True),
    _known("lfm2-350m", "LiquidAI/LFM2-350M", None, "lfm2", "lfm1.0"),
    _known("lfm2-1.2b", "LiquidAI/LFM2-1.2B", None, "lfm2", "lfm1.0", drafters=("lfm2-350m",)),
    _known("lfm2-2.6b", "LiquidAI/LFM2-2.6B", None, "lfm2", "lfm1.0", drafters=("lfm2-350m",)),
    _known("granite-4.0-h-350m", "ibm-granite/granite-4.0-h-350m", None, "granite-4"),
    _known("granite-4.0-h-tiny", "ibm-granite/granite-4.0-h-tiny", None, "granite-4", drafters=("granite-4.0-h-350m",)),
    _known("lfm2-8b-a1b", "LiquidAI/LFM2-8B-A1B", None, "lfm2", "lfm1.0", drafters=("lfm2-350m",)),
    _known("gpt-oss-20b", "openai/gpt-oss-20b", None, "gpt-oss"),
)

TARGETS: dict[str, Target] = {target.name: target for target in _TARGETS}


def resolve(name: str) -> Target:
    """The target called ``name``: a known name (any case), a local folder, or a Hugging Face id ``owner/model``.

    The id of a known model has that model's revision and partners. A known name counts before a folder of that name
    (write ``./qwen2-1.5b`` for the folder), and a folder before an id.
    """
    if (known := TARGETS.get(name.lower())) is not None:
        return known
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _in_folder(folder)
    for target in _TARGETS:
        if target.hub_id is not None and target.hub_id.lower() == name.lower():
            return target
    owner, separator, model = name.partition("/")
    if separator and owner and model and "/" not in model and not name.startswith((".", "~")):
        return Target(model, hub_id=name)
    if "/" in name or name.startswith((".", "~")):
        raise UnknownTargetError(f"no folder {name!r}; give an existing checkpoint folder, a known name or owner/model")
    raise UnknownTargetError(_unknown(name))


def _in_folder(folder: Path) -> Target:
    """The checkpoint in a folder; it is called MODEL in the Hub's cache, models--OWNER--MODEL/snapshots/COMMIT."""
    place = folder.resolve()
    kind, *parts = place.parent.parent.name.split("--")
    if place.parent.name == "snapshots" and kind == "models" and all(parts):
        return Target(parts[-1], "/".join(parts), folder)
    return Target(place.name, folder=folder)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), TARGETS, n=3, cutoff=0.5)
    hint = f"near: {', '.join(near)}" if near else f"known: {', '.join(TARGETS)}"
    return f"unknown target {name!r}; {hint}; or give a Hugging Face id (owner/model) or a checkpoint folder"


def check_family(target: Target, partner: Target) -> None:
    """FamilyError if both are known by name and have different tokenizers; reads no files."""
    if target.family is None or partner.family is None or target.family == partner.family:
        return
    family = [name for name, other in TARGETS.items() if other.family == target.family and other is not target]
    choice = f"choose one of {', '.join(family)}" if family else "no other known model does"
    raise FamilyError(
        f"{partner.name} is of the family {partner.family} and does not share the tokenizer of {target.name}"
        f" ({target.family}); {choice}, or none"
    )


def load_config(path: Path) -> Any:
    """The transformers configuration in ``path``, a ``config.json`` or its folder; no code from there is run.

    Of models that also see or hear it is that of the text part; NoTextError if they have none. HeadFormatError for
    heads without a model. MXFP4 is left out of it: such weights are read like those of other types.
    """
    from transformers import AutoConfig

    refuse_heads(path if path.is_dir() else path.parent)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # configuration classes raise anything for values that they do not expect
        reason = " ".join(str(error).split())
        raise ConfigError(f"transformers cannot read the configuration in {path}: {reason[:300]}") from error
    return without_packing(text_config(config))
