"""Adds to ``tokenizer.json`` the tokens and flags of ``tokenizer_config.json``, as transformers does.

Whether ``<|end|>`` swallows the line break behind it (``rstrip``) may stand in either file. If they differ, the
configuration decides (``added_tokens_decoder`` of transformers 4 and 5). The ``tokenizer.json`` of a bundle has all of
it, so that every program that reads the file encodes alike.

How the file treats spaces stays as it is, even where transformers 5 differs: it replaces the pre-tokenizer of its class
``LlamaTokenizer``, and unless ``legacy`` is true it puts no space mark behind special tokens. The file has what the
model was trained with: Llama 2's code, llama2.c and transformers 4 encode the text behind a begin token by itself, with
a space mark in front; a tokenizer saved with ``legacy`` false says otherwise in its file. Measured on 60 openings of
TinyStories behind ``<s>``, the losses of stories260k, bitllama-1m and bitllama-3m are 0.67, 0.70 and 0.66 nats a
character with the file's tokens, and 0.94, 0.97 and 0.92 with those of transformers 5.24.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from export.sources.vocabulary import VocabularyError, read_json

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def add_configured_tokens(data: dict[str, Any], folder: Path, vocab_size: int) -> None:
    """Changes ``data``, a parsed tokenizer.json, as the configuration in ``folder`` says of added tokens.

    Tokens beyond the model's ``vocab_size`` rows are left out: the model has no embedding for them.
    """
    config = read_json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= read_json(folder / "special_tokens_map.json")
    known = {entry["content"]: entry for entry in data.get("added_tokens", [])}
    wanted = {token.content: token for token in [*_configured(config), *_named(config, known)]}
    changed = [token for token in wanted.values() if _differs(known.get(token.content), token)]
    if not changed:
        return
    added = _added(data, changed, folder / "tokenizer.json")
    for entry in added:  # what is special in either file is special: the library then leaves it out of texts
        entry["special"] |= known.get(entry["content"], entry).get("special", False)
    data["added_tokens"] = [entry for entry in added if entry["id"] < vocab_size]


def _added(data: Mapping[str, Any], tokens: list[AddedToken], path: Path) -> list[dict[str, Any]]:
    """All added tokens once the library has added ``tokens``."""
    try:
        inner = Tokenizer.from_str(json.dumps(data))
        inner.add_tokens(tokens)
        added: list[dict[str, Any]] = json.loads(inner.to_str())["added_tokens"]
    except Exception as error:  # the library raises bare Exception
        reason = " ".join(str(error).split())
        raise VocabularyError(f"{path} is not a tokenizer ({reason}); download it again") from None
    return added


def _configured(config: Mapping[str, Any]) -> Iterator[AddedToken]:
    """The tokens of ``added_tokens_decoder`` by ascending id; those named in the configuration are special."""
    decoder = config.get("added_tokens_decoder")
    decoder = decoder if isinstance(decoder, dict) else {}
    named = {_text(value) for name, value in config.items() if name.endswith("_token")}
    for number in sorted(filter(str.isdecimal, decoder), key=int):
        token = decoder[number]
        if isinstance(token, dict) and (text := _text(token)) is not None:
            flags = {flag: bool(token[flag]) for flag in _FLAGS if flag in token}
            yield AddedToken(text, **{**flags, "special": flags.get("special", False) or text in named})


def _named(config: Mapping[str, Any], known: Container[str]) -> Iterator[AddedToken]:
    """Special tokens that the configuration names or lists, and that are neither known nor in the decoder."""
    listed = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    values = [value for name, value in config.items() if name.endswith("_token")]
    values += listed.values() if isinstance(listed, dict) else listed
    configured = {token.content for token in _configured(config)}
    for text in dict.fromkeys(map(_text, values)):
        if text and text not in known and text not in configured:
            yield AddedToken(text, special=True)


def _text(value: Any) -> str | None:
    """The text of a token that is given as a text, or as an object of text and flags."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _differs(entry: Mapping[str, Any] | None, token: AddedToken) -> bool:
    return entry is None or any(bool(entry.get(flag)) != getattr(token, flag) for flag in _FLAGS)
