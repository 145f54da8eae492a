"""The forms that a prompt may have; any other is refused in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.arguments import as_whole, python_value
from runtime.text.template_data import ChatTemplateError, Message, TemplateInputs, is_message
from runtime.text.tokenizer import Tokenizer, TokenizerError

Prompt = str | Sequence[Message] | Sequence[int]

_WHAT = (
    "a prompt is a text, a list of messages such as [{'role': 'user', 'content': 'Hello'}], or token ids in a list or"
    " in an array of one axis"
)


def read_prompt(prompt: Any) -> str | list[Message] | list[int]:
    """``prompt`` in Python's own types; TokenizerError says which forms a prompt may have."""
    if isinstance(prompt, str):
        return prompt
    items = python_value(prompt)
    if isinstance(items, str | bytes | bytearray | memoryview) or not isinstance(items, Sequence):
        raise TokenizerError(f"{_named(prompt)} is no prompt; {_WHAT}")
    ids = [as_whole(item) for item in items]
    if None not in ids:
        return [token for token in ids if token is not None]
    if all(map(is_message, items)):
        return list(items)
    kinds = ["id" if ids[place] is not None else is_message(item) for place, item in enumerate(items)]
    if False not in kinds:
        raise TokenizerError(f"the prompt mixes messages and token ids; {_WHAT}")
    place = kinds.index(False)
    raise TokenizerError(f"item {place} of the prompt is {_named(items[place])}; {_WHAT}")


def encode_prompt(tokenizer: Tokenizer, prompt: Any, raw: bool, inputs: TemplateInputs) -> list[int]:
    """The tokens of ``prompt``; a text is put into the chat template if there is one, unless ``raw``.

    ChatTemplateError if there are ``inputs`` for a template that is not used.
    """
    prompt = read_prompt(prompt)
    if isinstance(prompt, str):
        if raw or tokenizer.template is None:
            _refuse_inputs(inputs, "a text that is continued")
            return tokenizer.encode(prompt)
        return tokenizer.encode_chat([{"role": "user", "content": prompt}], inputs)
    ids = [item for item in prompt if isinstance(item, int)]
    if len(ids) == len(prompt):
        _refuse_inputs(inputs, "token ids")
        return ids
    return tokenizer.encode_chat([item for item in prompt if not isinstance(item, int)], inputs)


def check_ids(tokens: Any, vocab_size: int, tokenizer: Tokenizer) -> list[int]:
    """``tokens`` as Python integers; TokenizerError names the first one that is not below ``vocab_size``."""
    ids = read_prompt(tokens)
    if isinstance(ids, str) or not all(isinstance(token, int) for token in ids):
        raise TokenizerError(f"{_named(tokens)} is given as token ids; {_WHAT}")
    found = [token for token in ids if isinstance(token, int)]
    if not found or 0 <= min(found) <= max(found) < vocab_size:
        return found
    place, token = next((place, token) for place, token in enumerate(found) if not 0 <= token < vocab_size)
    written = f" ({tokenizer.token(token)!r})" if 0 <= token < tokenizer.entries else ""
    raise TokenizerError(
        f"token {token}{written} at place {place} of the prompt is beyond the model's vocabulary of {vocab_size}"
        f" tokens, 0 to {vocab_size - 1}: leave it out, or take the tokenizer that the model was made with"
    )


def _refuse_inputs(inputs: TemplateInputs, prompt: str) -> None:
    if inputs.names:
        raise ChatTemplateError(
            f"{', '.join(inputs.names)}: {prompt} goes through no chat template, which alone takes it; drop it, or pass"
            " messages to a model with a template"
        )


def _named(value: Any) -> str:
    """``value`` described in few words."""
    if isinstance(value, Mapping):
        return "one message without a list around it"
    shown = repr(value)
    return f"{shown if len(shown) < 30 else '...'} of type {type(value).__name__}" if value is not None else "None"
