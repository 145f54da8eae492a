"""Writes conversations with the texts that Python renders of them; the engine's tests render them again."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from android_demo.check.hard_texts import hard_texts
from android_demo.check.places import BUILD, ROOT
from runtime.text.chat_template import ChatTemplate
from runtime.text.template_data import ChatTemplateError, make_inputs
from runtime.text.template_files import read_special_tokens
from tests.places import SHARED
from tests.runtime.text.template_styles import ARGUMENTS, STYLES

FOLDER = BUILD / "fixtures" / "template"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_TOOL = {
    "type": "function",
    "function": {"name": "wéather", "description": "It's <now>", "parameters": {"a": [1, 2.5, None, True]}},
}
_CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Köln", "days": 3}},
}


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


FIXED: list[list[dict[str, Any]]] = [
    [_user("Hello, 'world' & <you>")],
    [_system("Be brief."), _user(" Zeit? 日本 👩‍👧 \n")],
    [_user("a"), _assistant("b\n\n"), _user(" c ")],
    [_system("S\n"), _user("1"), _assistant("<think>\nhm\n</think>\n\ntwo"), _user("3"), _assistant("4"), _user("5")],
    [_user("a"), _assistant("b", reasoning_content="because"), _user("c"), _assistant("d", thinking=""), _user("")],
    [
        _user("a"),
        _assistant("", tool_calls=[_CALL]),
        {"role": "tool", "content": "21 °C", "name": "weather"},
        _user("so?"),
    ],
    [_assistant("first"), _user("then")],
    [_user("a"), _user("b")],
    [_user("a"), _system("late"), _user("b")],
    [_user("one"), _assistant("two")],
    [{"role": "user", "content": [{"type": "text", "text": " parts "}, {"type": "text", "text": "of it"}]}],
    [{"role": "critic", "content": "no such role"}],
    [_user("x" * 300), _assistant("\t y\r\nz \u2028"), _user("{{ 1 }} {% if %} </s> <|im_end|>")],
]


def _drawn(draw: random.Random, texts: Sequence[str]) -> list[dict[str, Any]]:
    """A conversation of several turns about ``texts``."""
    messages = [_system(draw.choice(texts))] if draw.random() < 0.5 else []
    for _ in range(draw.randint(0, 3)):
        messages += [_user(draw.choice(texts)), _assistant(draw.choice(texts))]
    return [*messages, _user(draw.choice(texts))]


def cases(name: str, source: str, special: Mapping[str, str], count: int) -> Iterator[dict[str, Any]]:
    """What Python renders with the template ``source`` of the fixed conversations and ``count`` others."""
    template = ChatTemplate(source, special, name)
    draw = random.Random(count)
    texts = [text for text in hard_texts(max(count, 40)) if not any("\ud800" <= each < "\ue000" for each in text)]
    arguments: list[dict[str, Any]] = [{}, *ARGUMENTS.get(name, []), {"enable_thinking": False}, {"tools": [_TOOL]}]
    chosen = [one for one in arguments if all(template.takes(each) for each in one)]
    yield {"name": name, "source": source, "special": dict(special)}
    for messages in [*FIXED, *(_drawn(draw, texts) for _ in range(count))]:
        for given in chosen if messages in FIXED else chosen[:1]:
            for add in (True, False):
                case = {"messages": messages, "arguments": given, "add": add}
                try:
                    yield case | {"text": template.render(messages, make_inputs(given), add_generation_prompt=add)}
                except ChatTemplateError as error:
                    yield case | {"error": str(error)}


def templates(more: Path | None = None) -> dict[str, tuple[str, Mapping[str, str]]]:
    """Sources and special tokens by name: the styles of the families, the demo's, those at hand, those in ``more``."""
    found: dict[str, tuple[str, Mapping[str, str]]] = {name: (source, SPECIAL) for name, source in STYLES.items()}
    for folder in (
        ROOT / "export/demo/Llama-Pocketspec-9M",
        SHARED / "tokenizers/qwen2",
        SHARED / "models/demo-target-2",
    ):
        if (folder / "chat_template.jinja").is_file():
            found[folder.name] = (
                (folder / "chat_template.jinja").read_text(encoding="utf-8"),
                read_special_tokens(folder),
            )
    for path in sorted(more.glob("*.jinja")) if more is not None else []:
        found[path.stem] = (path.read_text(encoding="utf-8"), SPECIAL)
    return found


def write(folder: Path, count: int, more: Path | None = None) -> int:
    """Writes a file for each template to ``folder``, with ``count`` drawn conversations; returns how many files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = templates(more)
    for name, (source, special) in found.items():
        lines = [json.dumps(case) for case in cases(name, source, special, count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(found)
