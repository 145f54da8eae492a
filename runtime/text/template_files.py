"""Finds the chat templates and special tokens of checkpoints, in the same files as transformers.

A template is in ``chat_template.jinja``, with further ones by name in ``additional_chat_templates/``, or in
``tokenizer_config.json`` as a text or as a list of named ones. Files take precedence over the configuration. The
template named "tool_use" is for messages with tools.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.untrusted import MOST_TEXT, UntrustedError, parse_json, read_text_within
from runtime.text.chat_template import ChatTemplate
from runtime.text.template_data import ChatTemplateError

FILE_NAME = "chat_template.jinja"
FOLDER_NAME = "additional_chat_templates"
_CONFIG = "tokenizer_config.json"
_DEFAULT, _TOOL_USE = "default", "tool_use"


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """The template of the checkpoint or bundle in ``folder``; None if there is none."""
    named, where = _read_templates(folder)
    if not named:
        return None
    if _DEFAULT not in named and len(named) > 1:
        known = ", ".join(named)
        raise ChatTemplateError(f"{where} has no chat template named 'default' (it names: {known}); use --raw")
    special = read_special_tokens(folder)
    for_tools = None
    if _TOOL_USE in named:
        for_tools = ChatTemplate(named[_TOOL_USE], special, f"{where} ({_TOOL_USE})")
    return ChatTemplate(named.get(_DEFAULT, next(iter(named.values()))), special, where, for_tools)


def read_special_tokens(folder: Path) -> dict[str, str]:
    """The texts of special tokens by names like ``bos_token``, from the tokenizer's configuration files.

    As in transformers, ``special_tokens_map.json`` takes precedence over a configuration without
    ``added_tokens_decoder``, and is ignored beside one that has it.
    """
    config = _read_json(folder, _CONFIG)
    legacy = {} if "added_tokens_decoder" in config else _read_json(folder, "special_tokens_map.json")
    merged = {**config, **legacy}
    extra = merged.get("extra_special_tokens")
    named = {name: value for name, value in merged.items() if name.endswith("_token")}
    named |= extra if isinstance(extra, dict) else {}
    tokens = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: text for name, text in tokens.items() if isinstance(text, str)}


def _read_templates(folder: Path) -> tuple[dict[str, str], str]:
    """The templates by name, and the file they are in."""
    files = {path.name.removesuffix(".jinja"): path for path in sorted((folder / FOLDER_NAME).glob("*.jinja"))}
    if (folder / FILE_NAME).is_file():
        files[_DEFAULT] = folder / FILE_NAME
    if files:
        texts = {name: _read_text(folder, path) for name, path in files.items()}
        return texts, str(files.get(_DEFAULT, folder / FOLDER_NAME))
    where = str(folder / _CONFIG)
    match _read_json(folder, _CONFIG).get("chat_template"):
        case str(source):
            return {_DEFAULT: source}, where
        case [*entries]:
            return {
                str(entry["name"]): str(entry.get("template", ""))
                for entry in entries
                if isinstance(entry, dict) and "name" in entry
            }, where
        case dict(named):
            return {str(name): str(source) for name, source in named.items()}, where
    return {}, where


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        return {}
    try:
        data = parse_json(_read_text(folder, path))
    except UntrustedError as error:
        raise ChatTemplateError(f"{path} {error}; export the bundle again") from None
    return data if isinstance(data, dict) else {}


def _read_text(folder: Path, path: Path) -> str:
    try:
        return read_text_within(folder, path.relative_to(folder).as_posix(), MOST_TEXT)
    except (UntrustedError, FileNotFoundError) as error:
        raise ChatTemplateError(f"{path} {error}; export the bundle again") from None
