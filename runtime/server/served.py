"""The models that a server has: an engine each, with its name, its worker and its defaults."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from runtime.decoding.sampling import SamplingParams
from runtime.engine import Engine
from runtime.server.errors import ApiError
from runtime.server.requests.base import Sampling
from runtime.server.worker import Worker
from runtime.speculation.request import Speculation


@dataclass(frozen=True)
class ServedModel:
    """One engine under ``name``. A prompt's text has at most ``longest_text`` bytes of UTF-8. ``sampling`` holds what
    requests that do not say otherwise get."""

    name: str
    engine: Engine
    worker: Worker
    longest_text: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    speculation: Speculation = field(default_factory=Speculation)
    created: int = field(default_factory=lambda: int(time.time()))

    def sampling_of(self, asked: Sampling) -> SamplingParams:
        """The sampling of one request; without a seed it gets a random one."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
        given = {name: value for name in names if (value := getattr(asked, name)) is not None}
        sampling = replace(self.sampling, **given)
        if sampling.temperature > 0 and asked.seed is None:
            sampling = replace(sampling, seed=secrets.randbits(31))
        return sampling


@dataclass(frozen=True)
class ServedModels:
    """All models of a server, by name; the first one answers requests that name none."""

    by_name: Mapping[str, ServedModel]

    def find(self, name: str | None) -> ServedModel:
        """The model called ``name``; ApiError 404 if there is none."""
        if name is None:
            return next(iter(self.by_name.values()))
        if name not in self.by_name:
            known = ", ".join(self.by_name)
            raise ApiError(
                f"there is no model {name!r} here; there are: {known}",
                status=404,
                param="model",
                code="model_not_found",
            )
        return self.by_name[name]

    def find_one(self, name: str | None) -> ServedModel:
        """Like ``find``, for what must not go to the wrong model: without a name only if there is one model alone."""
        if name is None and len(self.by_name) > 1:
            raise ApiError(
                f"there are several models, so name one: {', '.join(self.by_name)}",
                param="model",
                code="missing_required_parameter",
            )
        return self.find(name)
