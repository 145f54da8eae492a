"""From a request to what its answer must be: JSON of a schema, or a call of one of the tools."""

from __future__ import annotations

import json
from collections.abc import Sequence

from memory.plan import OverBudgetError
from runtime.constraints.compiler import JSON_SPACING
from runtime.constraints.request import AnyJsonObject, Constrained, ConstraintError, Grammar, JsonSchema
from runtime.server.errors import ApiError, as_api_error
from runtime.server.requests.chat import AnyObject, ChatRequest, FreeText, NamedChoice, SchemaFormat, Tool
from runtime.server.served import ServedModel
from runtime.server.tool_calls.format import ToolFormat
from runtime.text.tokenizer import Tokenizer


def constraint_of(model: ServedModel, asked: ChatRequest, tools: ToolFormat | None) -> Constrained | None:
    """What the answer must be, None for anything. ``tools``: the calls' format.

    ApiError if it cannot be compiled, with status 503 if the budget cannot have room for it.
    """
    form = None if isinstance(asked.response_format, FreeText) else asked.response_format
    chosen = _required_tools(asked)
    if form is not None and chosen:
        raise ApiError("tool_choice requires a call, and response_format another form; drop one", param="tool_choice")
    if form is not None and tools is not None:
        raise ApiError(
            "response_format leaves no room for tool calls; drop tools, or set tool_choice to none",
            param="response_format",
        )
    try:
        constraint = _of_format(form) if form is not None else None
        if chosen and tools is not None:
            constraint = call_grammar(chosen, tools, model.engine.tokenizer)
        if constraint is not None:
            model.engine.check_constraint(constraint)
    except (ConstraintError, OverBudgetError) as error:
        raise as_api_error(error, "tools" if chosen else "response_format") from None
    return constraint


def call_grammar(tools: Sequence[Tool], form: ToolFormat, tokenizer: Tokenizer) -> Grammar:
    """A grammar of one call of any of ``tools``, with arguments of its schema, in the format ``form``."""
    special = tokenizer.special_tokens

    def terms(texts: Sequence[str]) -> str:
        return " ".join(f"<[{special[text]}]>" if text in special else json.dumps(text) for text in texts)

    before, after = form.around
    lines = [
        f"start: {terms(before)} call {terms(after)}",
        f"call: {' | '.join(f'call{number}' for number in range(len(tools)))}",
    ]
    for number, tool in enumerate(tools):
        name = json.dumps(tool.function.name, ensure_ascii=False)
        opening = json.dumps(f'{{"name": {name}, "{form.arguments_key}": ', ensure_ascii=False)
        schema = {"x-guidance": JSON_SPACING} | (tool.function.parameters or {"type": "object"})
        lines += [f'call{number}: {opening} arguments{number} "}}"', f"arguments{number}: %json {json.dumps(schema)}"]
    return Grammar("\n".join(lines))


def _required_tools(asked: ChatRequest) -> list[Tool]:
    """The tools of which one must be called; none if that is left to the model."""
    tools, choice = asked.tools or [], asked.tool_choice
    chosen = tools if choice == "required" else []
    if isinstance(choice, NamedChoice):
        chosen = [tool for tool in tools if tool.function.name == choice.function.name]
        if tools and not chosen:
            raise ApiError(f"tool_choice names {choice.function.name!r}, which is no tool here", param="tool_choice")
    if not chosen and choice != "none" and any(tool.function.strict for tool in tools):
        raise ApiError(
            "strict arguments need a tool_choice that requires a call; set it to required, or drop strict",
            param="tools",
            code="unsupported_value",
        )
    return chosen


def _of_format(form: AnyObject | SchemaFormat) -> Constrained:
    return JsonSchema(form.json_schema.schema_ or {}) if isinstance(form, SchemaFormat) else AnyJsonObject()
