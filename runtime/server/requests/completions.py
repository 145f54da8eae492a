"""The body of ``/v1/completions``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runtime.server.requests.base import Generation, No, One, Text

TokenId = Annotated[int, Field(ge=0, le=(1 << 31) - 1)]


class CompletionRequest(Generation):
    """A text, or token ids, to be continued without the chat template; one prompt a request."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=1, fail_fast=True)]
        | Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
    )
    echo: No | None = None
    best_of: One | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
