"""How one answer is decoded, checked before anything of it is computed."""

from __future__ import annotations

from dataclasses import dataclass

from export.manifest import PocketspecError
from runtime.arguments import as_whole
from runtime.decoding.sampling import SamplingParams
from runtime.speculation.request import Speculation


@dataclass(frozen=True)
class DecodingSettings:
    """See ``Engine.generate``. PocketspecError for a value of a wrong type, and a negative ``left_out``."""

    sampling: SamplingParams
    speculation: Speculation
    left_out: int = 0
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for given, kind in ((self.sampling, SamplingParams), (self.speculation, Speculation)):
            if not isinstance(given, kind):
                raise PocketspecError(f"{given!r} is given where a {kind.__name__} belongs")
        if as_whole(self.left_out) is None or self.left_out < 0:
            raise PocketspecError(f"left_out is {self.left_out!r}; it is a number of tokens")
