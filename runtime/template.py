"""Chat templates: the text a checkpoint wants around the messages of a conversation.

Templates come with the checkpoint, so they are untrusted programs. They run in jinja2's immutable sandbox within limits
(``template_limits``), see plain JSON data only, and get what Hugging Face gives them: ``raise_exception``,
``strftime_now``, ``tojson`` without HTML escapes, loop controls, and ``{% generation %}`` blocks, which mark training
spans and change nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser

from export.manifest import PocketspecError
from runtime.template_limits import MeteredEnvironment, compile_metered, render_metered

Message = Mapping[str, Any]

_FILE_NAME = "chat_template.jinja"


class ChatTemplateError(PocketspecError, ValueError):
    """A template that does not compile, or that refuses the messages it is given."""


class _Generation(jinja2.ext.Extension):
    """``{% generation %} ... {% endgeneration %}``: its body, in a scope of its own."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class ChatTemplate:
    """One compiled template with the special tokens it may name; ``where`` says in errors where it came from."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], where: str) -> None:
        self._special_tokens = dict(special_tokens)
        self._where = where
        try:
            self._template = compile_metered(_environment(), source)
        except Exception as error:  # templates are compiled to programs, and fail as those do
            raise ChatTemplateError(f"{where} is not a valid chat template: {_line(error)}; use --raw") from None

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text of ``messages``, each with ``role`` and ``content``, ending where the assistant begins to speak."""
        try:
            plain = json.loads(json.dumps([dict(message) for message in messages]))
        except TypeError as error:
            raise ChatTemplateError(f"messages must be plain JSON data: {_line(error)}") from None
        try:
            variables = {"tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
            return render_metered(self._template, {"messages": plain, **variables, **self._special_tokens})
        except Exception as error:  # the template is a program of someone else's: anything can happen in it
            roles = ", ".join(dict.fromkeys(str(message.get("role")) for message in plain))
            raise ChatTemplateError(
                f"{self._where} refuses the messages ({roles}): {_line(error)}; change them or use --raw"
            ) from None


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """The default template of the checkpoint or bundle in ``folder``: a file of its own, or in the tokenizer's
    configuration as text or as a list of named templates. None when there is none.
    """
    config = _read_json(folder / "tokenizer_config.json")
    special = read_special_tokens(folder)
    own = folder / _FILE_NAME
    if own.is_file():
        return ChatTemplate(own.read_text(encoding="utf-8"), special, str(own))
    where = str(folder / "tokenizer_config.json")
    match config.get("chat_template"):
        case str(source):
            return ChatTemplate(source, special, where)
        case [*entries] if entries:
            return ChatTemplate(_default_of(entries, where), special, where)
    return None


def read_special_tokens(folder: Path) -> dict[str, str]:
    """Names like ``bos_token`` to the token's text, from the tokenizer's configuration files."""
    merged = {**_read_json(folder / "special_tokens_map.json"), **_read_json(folder / "tokenizer_config.json")}
    tokens = {}
    for name, value in merged.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            tokens[name] = text
    return tokens


def _default_of(entries: Sequence[Any], where: str) -> str:
    """The template named "default" in a list of named ones, or the only one."""
    named = {entry["name"]: entry["template"] for entry in entries if isinstance(entry, dict) and "name" in entry}
    if "default" in named:
        return str(named["default"])
    if len(named) == 1:
        return str(next(iter(named.values())))
    known = ", ".join(named) or "none"
    raise ChatTemplateError(f"{where} has no chat template named 'default' (it names: {known}); use --raw")


def _environment() -> MeteredEnvironment:
    environment = MeteredEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.add_filter("tojson", _to_json)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ChatTemplateError(f"{path} is not JSON: {_line(error)}; fetch the checkpoint again") from None
    return data if isinstance(data, dict) else {}


def _line(error: Exception) -> str:
    """An error's message as one line."""
    return " ".join(str(error).split()) or type(error).__name__
