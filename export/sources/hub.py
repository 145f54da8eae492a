"""Checkpoints from the Hugging Face Hub: configuration, tokenizer and safetensors, at a recorded commit.

Nothing else is downloaded: pickled weights and Python files can run code when they are loaded. The configuration comes
first, so that a model that cannot be exported is refused before its weights are downloaded. Downloads resume;
``huggingface_hub`` itself respects ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE``.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from export.manifest import PocketspecError
from export.untrusted import MOST_JSON, UntrustedError, parse_json, read_bytes

_SITE = "https://huggingface.co"
_INDEX = "model.safetensors.index.json"
_TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "LICENSE*",
)
# Folders hold other formats (onnx/, original/); "consolidated" is a second copy of the same weights.
_IGNORED = ("*/*.safetensors", "consolidated*")
# The base of HTTP errors belongs to whatever transport this version of the Hub's library uses.
_TRANSPORT_ERROR: type[Exception] = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
_HUB_ERRORS = (OSError, _TRANSPORT_ERROR, EntryNotFoundError, HFValidationError)


class HubError(PocketspecError, OSError):
    """A checkpoint that is not available: no network, no access, no such model, or nothing in it that may be opened."""


def fetch_checkpoint(
    source: str | Path, revision: str | None = None, cache_dir: Path | None = None, weights: bool = True
) -> Path:
    """The folder of the checkpoint ``source``, downloaded if necessary, with or without ``weights``.

    ``source`` is a folder or an id ``owner/model``. ``revision`` is a commit, branch or tag; None means the newest, and
    for a folder nothing else is allowed. ``cache_dir`` replaces the Hub's cache; if it is a plain mirror, with
    ``owner/model/config.json``, that folder is used. HubError explains in one line what is wrong.
    """
    if isinstance(source, Path) or Path(source).is_dir():
        if revision is not None:
            raise HubError(f"{source} is a folder and has no revision {revision!r}; leave the revision out")
        return check_folder(Path(source), weights)
    if cache_dir is not None and (cache_dir / source / "config.json").is_file():
        return check_folder(cache_dir / source, weights)
    check_folder(_download(source, revision, cache_dir, ("config.json",)), weights=False)
    if not weights:
        return _download(source, revision, cache_dir, _TEXT_FILES)
    return check_folder(_download(source, revision, cache_dir, (*_TEXT_FILES, "*.safetensors", _INDEX)), weights)


def resolved_revision(folder: Path) -> str | None:
    """The commit of a downloaded folder, after which the Hub's cache names it; None for other folders."""
    absolute = folder.absolute()
    if absolute.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", absolute.name):
        return absolute.name
    return None


def check_folder(folder: Path, weights: bool = True) -> Path:
    """``folder``; HubError unless it can be exported: it needs no code of its own, and weights are safetensors."""
    config = _read_config(folder)
    model_type = str(config.get("model_type", "none"))
    # Speculators name their configuration's code, which export.heads needs as little.
    if "auto_map" in config and "speculators_model_type" not in config and not _is_known(model_type):
        raise HubError(
            f"{folder / 'config.json'} names code to run (auto_map) for the architecture {model_type!r}, which"
            " transformers does not have; code of checkpoints is never run, use a model that transformers supports"
        )
    if weights:
        _check_weights(folder)
    return folder


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise HubError(f"no config.json in {folder}; give a checkpoint folder, a known name or a Hugging Face id")
    try:
        config = parse_json(read_bytes(path, MOST_JSON))
    except UntrustedError as error:
        raise HubError(f"{path} {error}; download it again") from None
    if not isinstance(config, dict):
        raise HubError(f"{path} holds a {type(config).__name__}, expected an object; download it again")
    return config


def _is_known(model_type: str) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING


def _check_weights(folder: Path) -> None:
    index = folder / _INDEX
    if index.is_file() or any(folder.glob("*.safetensors")):
        return
    if (heads := next(folder.glob("*_lm_head.pt"), None)) is not None:  # of Medusa and Hydra
        raise HubError(
            f"{heads} is pickled, and pickled weights are never opened: if you trust it, save it as safetensors:"
            f" save_file({{k: v.clone() for k, v in torch.load({heads.name!r}, weights_only=True).items()}},"
            f" {heads.with_suffix('.safetensors').name!r})"
        )
    raise HubError(
        f"no safetensors weights in {folder}; pickled weights (.bin) are never opened, save the model again with"
        " save_pretrained(..., safe_serialization=True)"
    )


def _download(model: str, revision: str | None, cache_dir: Path | None, patterns: tuple[str, ...]) -> Path:
    try:
        folder = snapshot_download(
            model, revision=revision, cache_dir=cache_dir, allow_patterns=list(patterns), ignore_patterns=list(_IGNORED)
        )
    except _HUB_ERRORS as error:
        raise HubError(_explain(error, model, revision)) from error
    assert isinstance(folder, str)
    return Path(folder)


def _explain(error: Exception, model: str, revision: str | None) -> str:
    """One line for ``error``. Subclasses come before their bases: a gated model is also one that is not found."""
    at = "" if revision is None else f" at revision {revision}"
    if isinstance(error, GatedRepoError):
        return (
            f"{model} is gated: accept its licence at {_SITE}/{model}, then log in with `hf auth login` (or set"
            " HF_TOKEN) and run this again"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{model} has no revision {revision!r}; see {_SITE}/{model}/commits/main for those it has"
    if isinstance(error, RepositoryNotFoundError):
        return f"no model {model!r} on the Hugging Face Hub, or it is private; check the id, or `hf auth login`"
    if isinstance(error, HFValidationError):
        return f"{model!r} is not a Hugging Face id; expected owner/model"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"the disk is full while downloading {model}; free space or give another --cache-dir, then run this again"
        )
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", "unknown")
        return f"the Hugging Face Hub answered {status} for {model}{at}; run this again later, downloads resume"
    if isinstance(error, LocalEntryNotFoundError | ConnectionError | TimeoutError | _TRANSPORT_ERROR):
        return (
            f"no connection to the Hugging Face Hub and {model}{at} is not in the cache; connect and run this again"
            " (downloads resume), give a local folder, or use --random-weights for timing"
        )
    reason = str(error).strip().splitlines()
    return f"cannot download {model}{at}: {reason[0] if reason else type(error).__name__}; run this again"
