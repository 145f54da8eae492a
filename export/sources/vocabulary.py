"""The vocabulary of a checkpoint: its tokens, their hash, its end tokens, and whether two models share it.

Speculation compares token ids, so each id must be the same token to target and drafter. Logits may be wider than the
vocabulary (151,936 or 152,064 for the same 151,646 entries of Qwen2); that padding is no part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.manifest import PocketspecError, Vocabulary
from export.untrusted import MOST_JSON, UntrustedError, parse_json, read_bytes


class VocabularyError(PocketspecError, ValueError):
    """A tokenizer that is missing or damaged, or two that do not match."""


def read_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of the checkpoint in ``folder``.

    End tokens are the union of those in ``generation_config.json``, ``config.json`` and ``tokenizer_config.json``, in
    that order; the begin token is the tokenizer's, or the configuration's where the tokenizer does not say.
    """
    tokens = read_tokens(folder)
    generation, config, tokenizer = (
        read_json(folder / name) for name in ("generation_config.json", "config.json", "tokenizer_config.json")
    )
    ids = {token: number for number, token in tokens.items()}
    ends = [*_numbers(generation, "eos"), *_numbers(config, "eos"), *_special(tokenizer, "eos", ids)]
    begins = _special(tokenizer, "bos", ids) if "bos_token" in tokenizer else _numbers(config, "bos")
    return Vocabulary(len(tokens), _hash(tokens), tuple(dict.fromkeys(ends)), begins[0] if begins else None)


def read_tokens(folder: Path) -> dict[int, str]:
    """Every entry of the tokenizer in ``folder``, special ones too, by ascending id."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise VocabularyError(
            f"no tokenizer.json in {folder}; save one there with transformers: AutoTokenizer...save_pretrained(folder)"
        )
    data = read_json(path)
    try:
        vocabulary = data["model"]["vocab"]
        # Unigram models list [token, score] by id; all others map token to id.
        pairs = enumerate(entry[0] for entry in vocabulary) if isinstance(vocabulary, list) else _swapped(vocabulary)
        tokens = dict(pairs) | {int(added["id"]): added["content"] for added in data.get("added_tokens", [])}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise VocabularyError(f"{path} is not a tokenizer: no model.vocab as expected; download it again") from None
    return dict(sorted(tokens.items()))


def check_pair(target_folder: Path, drafter_folder: Path) -> None:
    """VocabularyError, which names the first difference, unless both folders have the same token for every id."""
    target, drafter = read_tokens(target_folder), read_tokens(drafter_folder)
    if target == drafter:
        return
    number = min(number for number in target.keys() | drafter.keys() if target.get(number) != drafter.get(number))
    raise VocabularyError(
        f"different tokenizers: token {number} is {_shown(target, number)} in {target_folder} and"
        f" {_shown(drafter, number)} in {drafter_folder}; choose a drafter of the target's family, or none"
    )


def _swapped(vocabulary: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    return ((int(number), token) for token, number in vocabulary.items())


def _shown(tokens: Mapping[int, str], number: int) -> str:
    return repr(tokens[number]) if number in tokens else f"absent ({len(tokens):,} entries)"


def _hash(tokens: Mapping[int, str]) -> str:
    """SHA-256 over the pairs (id, token) as JSON, in which no token can contain a separator."""
    pairs = json.dumps([[number, token] for number, token in tokens.items()], separators=(",", ":"))
    return hashlib.sha256(pairs.encode()).hexdigest()


def _numbers(config: Mapping[str, Any], kind: str) -> list[int]:
    """Token ids of ``kind`` ("eos", "bos") in a configuration: one, several, or none."""
    value = config.get(f"{kind}_token_id")
    values = value if isinstance(value, list) else [value]
    return [int(number) for number in values if number is not None]


def _special(config: Mapping[str, Any], kind: str, ids: Mapping[str, int]) -> list[int]:
    """The id of a special token that a tokenizer's configuration gives as text."""
    value = config.get(f"{kind}_token")
    text = value.get("content") if isinstance(value, dict) else value
    return [ids[text]] if isinstance(text, str) and text in ids else []


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of a checkpoint; empty where there is no file. VocabularyError if it is not JSON."""
    if not path.is_file():
        return {}
    try:
        data = parse_json(read_bytes(path, MOST_JSON))
    except UntrustedError as error:
        raise VocabularyError(f"{path} {error}; download it again") from None
    return data if isinstance(data, dict) else {}
