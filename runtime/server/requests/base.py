"""What all requests share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Text = Annotated[str, Field(min_length=1)]
JsonObject = dict[str, Any]
Nothing = Literal[None]

# Values that ask for nothing. In Python 0 is False and 1 is True, but not in JSON.
_NUMBER = BeforeValidator(lambda value: None if isinstance(value, bool) else value)
_BOOLEAN = BeforeValidator(lambda value: value if isinstance(value, bool) else None)
Zero = Annotated[Literal[0], _NUMBER]
One = Annotated[Literal[1], _NUMBER]
No = Annotated[Literal[False], _BOOLEAN]
Yes = Annotated[Literal[True], _BOOLEAN]

_MOST_SEED = (1 << 64) - 1
_MOST_TOP_K = (1 << 31) - 1
_MOST_STOPS = 16
# More fields than any object of the API has. Each unknown one would be an error of 1,000 bytes.
_MOST_FIELDS = 100
# As OpenAI's. Longer lists take long to check, and the event loop waits.
MOST_MESSAGES, MOST_TOOLS = 2048, 128


class Strict(BaseModel):
    """A JSON object with the fields that are declared, and no others."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > _MOST_FIELDS:
            raise PydanticCustomError(
                "too_many_fields", f"It has {len(data):,} fields, and no object has {_MOST_FIELDS}"
            )
        return data


class StreamOptions(Strict):
    """``include_usage``: a last chunk says how many tokens there were."""

    include_usage: bool = False
    include_obfuscation: No | None = None


class Sampling(Strict):
    """How tokens are chosen; None: as the server was started. ``temperature`` 0 takes the most probable token."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=_MOST_TOP_K)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.001, le=1000)] | None = None
    seed: Annotated[int, Field(ge=0, le=_MOST_SEED)] | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None


class Asked(Sampling):
    """What all answers have in common.

    ``user``, ``safety_identifier`` and ``prompt_cache_key`` name the client: clients take turns in the queue.
    """

    model: Text | None = None
    stream: bool | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def client(self) -> str | None:
        """The name that the request gives to its client, if any."""
        return self.user or self.safety_identifier or self.prompt_cache_key


class Generation(Asked):
    """What ``/v1/chat/completions`` and ``/v1/completions`` have in common.

    ``ignore_eos`` goes on past end tokens. ``token_sources`` adds to every streamed choice who proposed its text.
    """

    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=_MOST_STOPS, fail_fast=True)] | None = None
    n: One | None = None
    ignore_eos: bool = False
    token_sources: bool = False

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
