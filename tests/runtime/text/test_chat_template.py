"""A chat template renders what transformers' ``apply_chat_template`` renders, whatever the input; else one line."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.manifest import PocketspecError
from runtime.__main__ import main
from runtime.commands import options as shared
from runtime.conversation import Conversation
from runtime.engine import Engine
from runtime.speculation.request import PLAIN
from runtime.text.chat_template import ChatTemplate
from runtime.text.template_data import ChatTemplateError, TemplateInputs, make_inputs, prepare_messages
from runtime.text.template_files import read_chat_template
from tests.runtime.text.template_styles import ARGUMENTS, STYLES
from tests.runtime.tiny_bundle import TEMPLATE, write_tiny_bundle, write_tokenizer

TOOL = {
    "type": "function",
    "function": {
        "name": "wetter",
        "description": "Das Wetter für einen <Ort>",
        "parameters": {"type": "object", "properties": {"ort": {"type": "string"}}, "required": ["ort"]},
    },
}
DOCUMENTS = [{"doc_id": 7, "title": "T", "text": "Text & mehr"}]
CALL = {"type": "function", "function": {"name": "wetter", "arguments": {"ort": "Köln", "tage": 2}}}
USER = {"role": "user", "content": "  Hallo 'Welt' & <du>  "}

CONVERSATIONS: dict[str, list[Any]] = {
    "user": [USER],
    "system": [{"role": "system", "content": "Sei kurz."}, USER],
    "turns": [USER, {"role": "assistant", "content": "Ja\n\n"}, {"role": "user", "content": "日本 👩‍👧"}],
    "thoughts": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nJa"}, USER],
    "reasoning": [USER, {"role": "assistant", "content": "Ja", "reasoning": "weil", "name": None}, USER],
    "thinking": [USER, {"role": "assistant", "content": "Ja", "thinking": "weil", "reasoning_content": None}],
    "no content": [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "7"},
    ],
    "two calls": [USER, {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "image"}]}],
    "mapping": [USER, {"role": "tool", "content": {"grad": 7.5, "regen": False, "wind": None}}],
    "numbers": [
        {"role": "user", "content": "n", "score": np.float32(0.5), "index": np.int64(3), "ok": np.bool_(False)}
    ],
    "tuples": [{"role": "user", "content": "n", "tags": ("a", 1)}],
    "answer last": [USER, {"role": "assistant", "content": "Ja"}],
    "second system": [USER, {"role": "system", "content": "Sei lang."}],
}
INPUTS = [
    TemplateInputs(),
    TemplateInputs(tools=[TOOL]),
    TemplateInputs(documents=DOCUMENTS),
    TemplateInputs(tools=[TOOL], documents=DOCUMENTS),
    TemplateInputs(tools=[]),
]

Rendering = Callable[..., str]


def checkpoint(folder: Path, **config: Any) -> Path:
    """A tokenizer of printable characters with ``config`` beside it."""
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    tokens = {"bos_token": "<s>", "eos_token": "<|end|>", "pad_token": None, "image_token": "<image>"}
    config = {"tokenizer_class": "TokenizersBackend", **tokens, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def both(folder: Path) -> tuple[Rendering, Rendering]:
    """Ours and transformers' rendering of the checkpoint in ``folder``; each raises what it raises."""
    transformers = pytest.importorskip("transformers")
    theirs, template = transformers.AutoTokenizer.from_pretrained(folder), read_chat_template(folder)
    assert template is not None

    def ours(messages: list[Any], inputs: TemplateInputs, add_generation_prompt: bool = True) -> str:
        return template.render(messages, inputs, add_generation_prompt=add_generation_prompt)

    def reference(messages: list[Any], inputs: TemplateInputs, add_generation_prompt: bool = True) -> str:
        text: str = theirs.apply_chat_template(
            messages,
            tools=inputs.tools,
            documents=inputs.documents,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **inputs.arguments,
        )
        return text

    return ours, reference


def prepares() -> bool:
    """Whether this transformers prepares messages (5.24 does, 5.4 does not): older ones see them as they are."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    return hasattr(utils, "_normalize_chat_messages")


def check(ours: Rendering, reference: Rendering, *arguments: Any) -> bool:
    """Both render the same, or both refuse; whether they rendered. What the template has no use for, ours refuses."""
    try:
        text = ours(*arguments)
    except ChatTemplateError as error:
        line = str(error)
    else:
        assert text == reference(*arguments)
        return True
    assert "\n" not in line
    if "has no use for" not in line:
        with pytest.raises(Exception):  # noqa: B017, PT011  (templates raise anything)
            reference(*arguments)
    return False


@pytest.mark.parametrize("style", STYLES)
def test_renderings_equal_those_of_transformers(tmp_path: Path, style: str) -> None:
    ours, reference = both(checkpoint(tmp_path, chat_template=STYLES[style]))
    inputs = [*INPUTS, *(TemplateInputs(arguments) for arguments in ARGUMENTS[style])]
    conversations = [each for each in CONVERSATIONS.values() if prepares() or prepare_messages(each) == each]
    cases = list(product(conversations, inputs, (True, False)))
    rendered = [check(ours, reference, *case) for case in cases]
    assert sum(rendered) > len(cases) / 5


def test_an_argument_changes_what_is_rendered(tmp_path: Path) -> None:
    ours, _ = both(checkpoint(tmp_path, chat_template=STYLES["qwen3"]))
    thinking, silent = (ours([USER], TemplateInputs({"enable_thinking": each})) for each in (True, False))
    assert silent == thinking + "<think>\n\n</think>\n\n"


def test_named_templates_are_chosen_as_transformers_chooses(tmp_path: Path) -> None:
    default, tool_use = "d {{ messages[0].content }}", "t {{ tools | length }}"
    named = [{"name": "default", "template": default}, {"name": "tool_use", "template": tool_use}]
    in_files = checkpoint(tmp_path / "files", chat_template="not this one")
    (in_files / "chat_template.jinja").write_text(default)
    (in_files / "additional_chat_templates").mkdir()
    (in_files / "additional_chat_templates" / "tool_use.jinja").write_text(tool_use)
    for folder in (checkpoint(tmp_path / "list", chat_template=named), in_files):
        ours, reference = both(folder)
        for inputs in (TemplateInputs(), TemplateInputs(tools=[]), TemplateInputs(tools=[TOOL])):
            assert check(ours, reference, [USER], inputs)
        assert ours([USER], TemplateInputs(tools=[TOOL])) == "t 1"


@pytest.mark.parametrize("decoder", [None, {}])
def test_special_tokens_are_those_of_transformers(tmp_path: Path, decoder: dict[str, Any] | None) -> None:
    template = "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ sep_token }}|{{ image_token }}|{{ boi }}"
    more = {} if decoder is None else {"added_tokens_decoder": decoder}
    folder = checkpoint(tmp_path, chat_template=template, extra_special_tokens={"boi": "<boi>"}, **more)
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"bos_token": "[map]", "sep_token": {"content": "[SEP]"}})
    )
    ours, reference = both(folder)
    assert check(ours, reference, [USER], TemplateInputs())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"arguments": {"enable_thinkin": False}},
            "has no use for 'enable_thinkin'; its arguments are: enable_thinking",
        ),
        ({"tools": [TOOL]}, "has no use for 'tools'; its arguments are: enable_thinking"),
        ({"arguments": {"documents": DOCUMENTS}}, "has no use for 'documents'"),
        ({"arguments": {"tools": [TOOL]}, "tools": []}, "tools are given twice"),
        ({"arguments": {"messages": []}}, "'messages' is no argument that can be set"),
        ({"tools": [len]}, "tools must be a list of mappings (JSON schemas of functions)"),
        ({"documents": "text"}, "documents must be a list of mappings (with title and text)"),
        (
            {"arguments": {"enable_thinking": object()}},
            "template arguments must be plain JSON data, and object is among",
        ),
    ],
)
def test_inputs_that_mean_nothing_are_refused_in_one_line(inputs: dict[str, Any], message: str) -> None:
    template = ChatTemplate("{{ bos_token }}{{ messages }}{{ enable_thinking }}", {"bos_token": "<s>"}, "a template")
    with pytest.raises(ChatTemplateError) as caught:
        template.render([USER], make_inputs(**inputs))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclass
class Said:
    """A message as an object, as libraries of services have them."""

    role: str
    content: str | None
    refusal: None = None


class Dumped:
    """A message that dumps itself, as pydantic's do."""

    def model_dump(self) -> dict[str, Any]:
        return {"role": "user", "content": "b", "audio": None}


def test_message_objects_are_mappings(tmp_path: Path) -> None:
    if not prepares():
        pytest.skip("this transformers passes message objects to templates as they are")
    ours, reference = both(checkpoint(tmp_path, chat_template="{{ messages }}"))
    assert check(ours, reference, [Said("user", "a"), Dumped(), Said("tool", None)], TemplateInputs())


def test_an_engine_takes_message_objects(engine: Engine) -> None:
    assert engine.encode([Said("user", "a"), Dumped()]) == engine.encode(  # type: ignore[list-item]
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    )


def test_messages_that_are_none_are_refused() -> None:
    template = ChatTemplate("{{ messages }}", {}, "a template")
    circle: dict[str, Any] = {"role": "user"}
    circle["content"] = circle
    for messages, message in (
        ([], "a chat has no messages"),
        (["hello"], "a message is 'hello'; expected a mapping with role and content"),
        ([{"role": "user", "content": np.zeros(2)}], "messages must be plain JSON data, and ndarray is among them"),
        ([circle], "messages are nested too deeply, or in a circle"),
    ):
        with pytest.raises(ChatTemplateError) as caught:
            template.render(messages)  # type: ignore[arg-type]
        assert message in str(caught.value)


def test_what_lies_behind_dict_and_namespace_stays_hidden() -> None:
    for source in (
        "{{ dict.mro() }}",
        "{% set ns = namespace(_a=1) %}",
        "{% set ns = namespace() %}{% set ns._a = 1 %}{{ ns }}",
    ):
        with pytest.raises(ChatTemplateError):
            ChatTemplate(source, {}, "a template").render([USER])


def test_arguments_reach_the_model_through_the_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate("{{ messages[0].content }}{% if tools %}T{% endif %}{{ mood }}", {}, "a template")
    monkeypatch.setattr(engine.tokenizer, "template", template)
    inputs = make_inputs({"mood": "glad"}, [TOOL])
    assert engine.encode("hi", inputs=inputs) == engine.tokenizer.encode("hiTglad")
    answer = list(engine.generate("hi", max_new_tokens=1, template_arguments={"mood": "glad"}, tools=[TOOL]))
    assert answer[-1].stats.prompt_tokens == len("hiTglad")
    for prompt, settings in (([1, 2], {}), ("hi", {"raw": True})):
        with pytest.raises(ChatTemplateError, match=r"tools: .* goes through no chat template"):
            engine.generate(prompt, tools=[TOOL], **settings)


def test_a_conversation_passes_its_inputs_at_every_turn(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(f"{{{{ mood }}}}{TEMPLATE}", {}, "a template")
    monkeypatch.setattr(engine.tokenizer, "template", template)
    conversation = Conversation(
        engine, template_arguments={"mood": "glad"}, max_new_tokens=2, speculation=PLAIN, ignore_eos=True
    )
    for turn in range(2):
        chunks = list(conversation.say(f"line {turn}"))
        expected = engine.encode(conversation.messages[:-1], inputs=make_inputs({"mood": "glad"}))
        assert chunks[-1].stats.prompt_tokens == len(expected)


@pytest.fixture(scope="module")
def switched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose template has a switch, and a place for tools."""
    source = (
        TEMPLATE + "{% if thinking is false %}{% for tool in tools or [] %}no {{ tool.name }} {% endfor %}{% endif %}"
    )
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "switched", chat_template=source, drafters=False)


COMMANDS = {
    "generate": ["hi", "--json"],
    "chat": ["--stats"],
    "compare": ["hi"],
    "bench": ["--compare", "plain", "--repeat", "1", "--count", "1"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_passes_arguments(
    switched: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    seen: list[TemplateInputs] = []
    render = ChatTemplate.render

    def spy(self: ChatTemplate, messages: Any, inputs: TemplateInputs, **settings: Any) -> str:
        seen.append(inputs)
        return render(self, messages, inputs, **settings)

    monkeypatch.setattr(ChatTemplate, "render", spy)
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
    count = ["--tokens", "2"] if command == "bench" else ["--max-new-tokens", "2"]
    arguments = ["--template-argument", "thinking=false", "--template-argument", 'tools=[{"name": "wetter"}]']
    code = main([command, str(switched), *COMMANDS[command], *count, "--threads", "1", *arguments])
    assert code == 0, capsys.readouterr().err
    assert seen
    assert all(each == TemplateInputs({"thinking": False}, [{"name": "wetter"}]) for each in seen)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("thinking", "--template-argument thinking: write NAME=VALUE, as in enable_thinking=false"),
        ("thinking=False", """values are JSON; write false, or '"False"' as text"""),
        ("thinkin=false", "chat_template.jinja has no use for 'thinkin'; its arguments are: thinking, tools"),
        ("tools=7", "tools must be a list of mappings"),
    ],
)
def test_arguments_that_mean_nothing_end_the_command(
    switched: Path, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    assert main(["generate", str(switched), "hi", "--template-argument", argument]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_values_are_json_or_text() -> None:
    given = ["a=1", "b=[true]", "c=plain text", 'd="1"', "e=x=y", "f="]
    options = argparse.Namespace(template_argument=given, raw=False)
    inputs = shared.make_template_inputs(options)
    assert inputs.arguments == {"a": 1, "b": [True], "c": "plain text", "d": "1", "e": "x=y", "f": ""}
    for wrong in (
        argparse.Namespace(template_argument=["a=1", "a=2"], raw=False),
        argparse.Namespace(template_argument=["a=1"], raw=True),
    ):
        with pytest.raises(PocketspecError):
            shared.make_template_inputs(wrong)
