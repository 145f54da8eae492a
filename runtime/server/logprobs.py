"""Log probabilities in OpenAI's two forms, of chats and of completions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from runtime.decoding.logprobs import TokenLogprob
from runtime.server.replies import ChatLogprobs, ContentLogprob, TextLogprobs, TopLogprob
from runtime.text.tokenizer import Tokenizer

# OpenAI's number for a token that cannot be; JSON has no infinity.
_NEVER = -9999.0


def chat_logprobs(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob]) -> ChatLogprobs:
    """The form of ``/v1/chat/completions``."""
    return {"content": [_content(tokenizer, each) for each in logprobs], "refusal": None}


def text_logprobs(tokenizer: Tokenizer, logprobs: Sequence[TokenLogprob], offset: int = 0) -> TextLogprobs:
    """The form of ``/v1/completions``; the first token begins ``offset`` characters into the answer."""
    texts = [_text(tokenizer.token_bytes(each.token)) for each in logprobs]
    offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [_finite(each.logprob) for each in logprobs],
        "top_logprobs": [
            {_text(tokenizer.token_bytes(token)): _finite(logprob) for token, logprob in each.top} for each in logprobs
        ],
        "text_offset": offsets,
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
