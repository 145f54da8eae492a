"""Renders chat templates: the text that a checkpoint expects around the messages of a conversation.

Templates come with the checkpoint, so they are untrusted programs. They run in jinja2's immutable sandbox within limits
(``template_limits``) and see only plain data. They have the functions that Hugging Face provides (transformers 5.24,
``chat_template_utils``): ``raise_exception``, ``strftime_now``, ``tojson`` without HTML escapes, loop controls,
``dict`` and ``namespace`` without the attributes of the types, and ``{% generation %}`` blocks, which mark training
spans and change nothing here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.utils import Namespace

from runtime.text.template_data import NO_INPUTS, ChatTemplateError, Message, TemplateInputs, prepare_messages
from runtime.text.template_limits import MeteredEnvironment, compile_metered, render_metered


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %} ... {% endgeneration %}``: its body, in its own scope."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Dict:
    """``dict`` in a template: it makes dictionaries and has nothing else of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """``namespace`` in a template, without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # as in jinja2, so that "self" can be a name in it
        self, *given = args
        values = dict(*given, **kwargs)
        for name in values:
            _refuse_underscore(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        Namespace.__setitem__(self, name, value)


class ChatTemplate:
    """One compiled template with its special tokens; ``where`` says in errors where it came from.

    ``for_tools`` is the checkpoint's own template for messages with tools, if it has one.
    """

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], where: str, for_tools: ChatTemplate | None = None
    ) -> None:
        self._special_tokens = dict(special_tokens)
        self._where, self._source = where, source
        self._for_tools = for_tools
        environment = _environment()
        try:
            self._template = compile_metered(environment, source)
            self._names = find_undeclared_variables(environment.parse(source)) - environment.globals.keys()
        except Exception as error:  # templates are compiled to programs, and fail as programs do
            raise ChatTemplateError(f"{where} is not a valid chat template: {_line(error)}; use --raw") from None

    def render(
        self, messages: Sequence[Message], inputs: TemplateInputs = NO_INPUTS, *, add_generation_prompt: bool = True
    ) -> str:
        """The text of ``messages``, each with ``role`` and ``content``, up to where the assistant begins to speak.

        ChatTemplateError if the template refuses them, or does not use one of the ``inputs``.
        """
        if self._for_tools is not None and inputs.tools is not None:
            return self._for_tools.render(messages, inputs, add_generation_prompt=add_generation_prompt)
        self._refuse_unknown(inputs)
        prepared = prepare_messages(messages)
        # Before the template runs: some filters of jinja2 change the lists that they are given.
        roles = ", ".join(dict.fromkeys(str(message.get("role")) for message in prepared))
        variables = {
            **self._special_tokens,
            **inputs.arguments,
            "messages": prepared,
            "tools": inputs.tools,
            "documents": inputs.documents,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return render_metered(self._template, variables)
        except Exception as error:  # the template is a stranger's program, which may raise anything
            raise ChatTemplateError(
                f"{self._where} refuses the messages ({roles}): {_line(error)}; change them or use --raw"
            ) from None

    def takes(self, name: str) -> bool:
        """Whether the template uses the input called ``name``: tools, documents, or an argument of its own."""
        if name == "tools" and self._for_tools is not None:
            return True
        return name in self._names and name not in ("messages", "add_generation_prompt", *self._special_tokens)

    def mentions(self, text: str) -> bool:
        """Whether ``text`` stands in the template, or in the one for tools."""
        return text in self._source or (self._for_tools is not None and self._for_tools.mentions(text))

    def _refuse_unknown(self, inputs: TemplateInputs) -> None:
        """Refuses inputs that the template does not use: a misspelt ``enable_thinking`` would be ignored in silence."""
        for name in inputs.names:
            if name not in self._names:
                own = {"messages", "add_generation_prompt", *self._special_tokens}
                known = ", ".join(sorted(self._names - own)) or "none"
                raise ChatTemplateError(f"{self._where} has no use for {name!r}; its arguments are: {known}")


def _environment() -> MeteredEnvironment:
    environment = MeteredEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.add_filter("tojson", _to_json)
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment


def _refuse_underscore(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has the name {name!r}, which begins with an underscore")


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _line(error: Exception) -> str:
    """The message of an error as one line."""
    return " ".join(str(error).split()) or type(error).__name__
