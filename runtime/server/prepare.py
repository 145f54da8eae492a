"""From a checked request to what the engine and the answer's reader are given. Runs in threads: prompts are long."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from export.manifest import PocketspecError
from runtime.server.constraining import constraint_of
from runtime.server.errors import ApiError, as_api_error
from runtime.server.messages import template_messages, template_tools
from runtime.server.reasoning import find_markers, is_open
from runtime.server.requests.chat import ChatRequest
from runtime.server.requests.completions import CompletionRequest
from runtime.server.segments import Segmenter
from runtime.server.served import ServedModel
from runtime.server.tool_calls import FORMATS, find_format
from runtime.server.tool_calls.format import ToolFormat
from runtime.server.worker import Work
from runtime.text.chat_template import ChatTemplate
from runtime.text.template_data import ChatTemplateError, TemplateInputs, make_inputs

# Characters of a conversation that tell it from others in the queue.
_BEGINNING = 1000


@dataclass(frozen=True)
class Prepared:
    """``work`` for the engine of ``model``, whose turn in the queue goes by ``client``; ``segmenter`` makes the reader
    of its text."""

    model: ServedModel
    work: Work
    client: Hashable
    segmenter: Callable[[], Segmenter] = Segmenter


def prepare_chat(model: ServedModel, request: ChatRequest, host: str) -> Prepared:
    """The work of a chat request from ``host``; ApiError for what this model cannot do."""
    tokenizer = model.engine.tokenizer
    template = tokenizer.template
    if template is None:
        raise ApiError(
            f"{model.name} has no chat template and cannot chat; use /v1/completions", param="model", code="no_template"
        )
    tools = _tool_format(model, template, request)
    text = _render(model, template, request)
    constraint = constraint_of(model, request, tools)
    # An answer of a given form has no room for reasoning.
    markers = find_markers(template) if constraint is None else None
    visible = (*(tools.visible_tokens if tools else ()), *((markers.opening, markers.closing) if markers else ()))
    _require_length(model, text, "messages")
    tokens = tokenizer.encode(text, add_special_tokens=False)
    logprobs = _logprobs(request)
    if logprobs is not None:
        tokenizer.token_bytes(0)  # reads the vocabulary, once, and not in the event loop
    _require_room(model, tokens, "messages")
    work = Work(
        tokens,
        model.sampling_of(request),
        model.speculation,
        _max_tokens(request),
        request.stops,
        ignore_eos=request.ignore_eos,
        visible_tokens=visible,
        logprobs=logprobs,
        constraint=constraint,
    )
    inside = is_open(markers, text)
    client = request.client or (host, text[:_BEGINNING])
    return Prepared(model, work, client, lambda: Segmenter(markers, inside, tools))


def prepare_completion(model: ServedModel, request: CompletionRequest, host: str) -> Prepared:
    """The work of a completion request from ``host``; ApiError for what this model cannot do."""
    prompt = request.prompt
    if isinstance(prompt, list) and isinstance(prompt[0], str):
        prompt = prompt[0]
    if isinstance(prompt, str):
        _require_length(model, prompt, "prompt")
    try:
        tokens = model.engine.encode(prompt, raw=True)
    except PocketspecError as error:
        raise as_api_error(error, "prompt") from None
    _require_room(model, tokens, "prompt")
    if request.logprobs is not None:
        model.engine.tokenizer.token_bytes(0)
    work = Work(
        tokens,
        model.sampling_of(request),
        model.speculation,
        request.max_tokens,
        request.stops,
        raw=True,
        ignore_eos=request.ignore_eos,
        logprobs=request.logprobs,
    )
    return Prepared(model, work, request.client or (host, tuple(tokens[:_BEGINNING])))


def _tool_format(model: ServedModel, template: ChatTemplate, request: ChatRequest) -> ToolFormat | None:
    """The format of the tool calls that the answer may have; None if it may have none."""
    if request.tool_choice is not None and request.tools is None:
        raise ApiError("tool_choice is given without tools; add tools, or drop it", param="tool_choice")
    if request.tools is None or request.tool_choice == "none":
        return None
    if not template.takes("tools"):
        raise ApiError(
            f"the chat template of {model.name} has no place for tools; take a model that was trained to call them",
            param="tools",
            code="unsupported_value",
        )
    found = find_format(template)
    if found is None:
        known = ", ".join(each.name for each in FORMATS)
        raise ApiError(
            f"{model.name} writes tool calls in a format that is not known here; known are: {known}",
            param="tools",
            code="unsupported_value",
        )
    return found


def _render(model: ServedModel, template: ChatTemplate, request: ChatRequest) -> str:
    """The prompt as text."""
    tools = None if request.tools is None or request.tool_choice == "none" else template_tools(request.tools)
    try:
        inputs: TemplateInputs = make_inputs(request.chat_template_kwargs, tools)
        for name in inputs.arguments:
            if not template.takes(name):
                raise ApiError(
                    f"the chat template of {model.name} has no argument {name!r}",
                    param=f"chat_template_kwargs.{name}",
                    code="unknown_parameter",
                )
        return template.render(template_messages(request.messages), inputs)
    except ChatTemplateError as error:
        raise as_api_error(error, "messages") from None


def _logprobs(request: ChatRequest) -> int | None:
    """How many alternatives each token gets; None: no log probabilities."""
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError("top_logprobs is given without logprobs; add logprobs: true, or drop it", param="top_logprobs")
    return (request.top_logprobs or 0) if request.logprobs else None


def _max_tokens(request: ChatRequest) -> int | None:
    given = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(given) > 1:
        raise ApiError("max_tokens and max_completion_tokens differ; drop max_tokens", param="max_tokens")
    return given.pop() if given else None


def _require_length(model: ServedModel, text: str, param: str) -> None:
    """ApiError 413 for a text that would take more memory while it is encoded than the plan has for that."""
    size, most = len(text.encode(errors="replace")), model.longest_text
    if size > most:
        raise ApiError(
            f"the prompt has {size:,} bytes, and memory is planned for prompts of at most {most:,} ({model.name} has a"
            f" context of {model.engine.capacity:,} tokens); shorten it, or start the server with a larger --context",
            status=413,
            param=param,
            code="context_length_exceeded",
        )


def _require_room(model: ServedModel, tokens: list[int], param: str) -> None:
    """ApiError unless the prompt leaves room for an answer: 413 for one that can never fit."""
    capacity = model.engine.capacity
    if not tokens:
        raise ApiError("the prompt has no tokens; write something", param=param, code="invalid_value")
    if len(tokens) >= capacity:
        raise ApiError(
            f"the prompt has {len(tokens):,} tokens, and the context of {model.name} holds {capacity:,}, the answer"
            " included; shorten it, or start the server with a larger --context",
            status=413,
            param=param,
            code="context_length_exceeded",
        )
