"""Log probabilities in OpenAI's two forms, of chats and of completions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

from runtime.decoding.logprobs import TokenLogprob
from runtime.server.replies import ChatLogprobs, ContentLogprob, TextLogprobs, TopLogprob
from runtime.text.tokenizer import Tokenizer

# OpenAI's number for a token that cannot be; JSON has no infinity.
_NEVER = -9999.0


def chat_logprobs(
    tokenizer: Tokenizer, logprobs: Iterable[TokenLogprob], listed: Callable[[Iterable[Any]], Any] = list
) -> ChatLogprobs:
    """The form of ``/v1/chat/completions``. ``listed`` makes the list, ``LazyList`` one that is made as it is sent."""
    return {"content": listed(_content(tokenizer, each) for each in logprobs), "refusal": None}


def text_logprobs(
    tokenizer: Tokenizer,
    logprobs: Iterable[TokenLogprob],
    offset: int = 0,
    listed: Callable[[Iterable[Any]], Any] = list,
) -> TextLogprobs:
    """The form of ``/v1/completions``; the first token begins ``offset`` characters into the answer.

    ``logprobs`` are gone through several times. ``listed`` as for chats.
    """

    def texts() -> Iterator[str]:
        return (_text(tokenizer.token_bytes(each.token)) for each in logprobs)

    def top(each: TokenLogprob) -> dict[str, float]:
        return {_text(tokenizer.token_bytes(token)): _finite(logprob) for token, logprob in each.top}

    ends = accumulate((len(text) for text in texts()), initial=offset)
    return {
        "tokens": listed(texts()),
        "token_logprobs": listed(_finite(each.logprob) for each in logprobs),
        "top_logprobs": listed(top(each) for each in logprobs),
        "text_offset": listed(offset for offset, _ in zip(ends, logprobs, strict=False)),
    }


def _content(tokenizer: Tokenizer, given: TokenLogprob) -> ContentLogprob:
    top = [_entry(tokenizer, token, logprob) for token, logprob in given.top]
    return {**_entry(tokenizer, given.token, given.logprob), "top_logprobs": top}


def _entry(tokenizer: Tokenizer, token: int, logprob: float) -> TopLogprob:
    data = tokenizer.token_bytes(token)
    return {"token": _text(data), "logprob": _finite(logprob), "bytes": list(data) or None}


def _text(data: bytes) -> str:
    """The text of a token; bytes that are a part of a character are written as OpenAI does, ``bytes:\\xe2\\x82``."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _NEVER
