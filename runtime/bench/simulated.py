"""Simulated acceptance for random weights, which never agree: chances by depth, or a published mean accepted length."""

from __future__ import annotations

import re
from dataclasses import dataclass

from export.manifest import PocketspecError
from memory.expected import chain_tokens, tree_tokens
from runtime.bench.contenders import Contender
from runtime.bench.measure import Chances
from runtime.decoding.draft import DraftLimit, chain_limit

OPTION = "--synthetic-acceptance"
_MEAN = re.compile(r"mean:(\d+(?:\.\d+)?)(?:@(\d+))?")
_HALVINGS = 60


@dataclass(frozen=True)
class MeanLength:
    """The mean number of tokens of a step, the target's own included, with chains of ``depth`` tokens.

    ``depth`` None: with drafts of each contender's own size.
    """

    tokens: float
    depth: int | None


@dataclass(frozen=True)
class Simulation:
    """The simulated acceptance of target and intermediate, as it was asked for in ``text``.

    Each is a chance for every depth (the last one for all deeper tokens), or a mean length from which a constant chance
    follows. ``intermediate`` None: it verifies as usual.
    """

    text: str
    target: tuple[float, ...] | MeanLength
    intermediate: tuple[float, ...] | MeanLength | None = None

    def chances(self, contender: Contender) -> Chances | None:
        """The chances of target and intermediate for ``contender``; None if it drafts nothing.

        The intermediate's are None if it verifies as usual. PocketspecError if a mean length is impossible with the
        contender's drafts, or if their size is unknown.
        """
        if contender.is_plain:
            return None
        limit = contender.speculation.limit
        below = None if limit is None else limit.inner
        inner = None if self.intermediate is None else _resolve(self.intermediate, below, contender.name)
        return _resolve(self.target, limit, contender.name), inner


def parse_simulation(text: str) -> Simulation:
    """Parses ``0.8``, ``0.9,0.8,0.7``, ``mean:3.2`` or ``mean:3.2@6`` (a mean with chains of 6).

    Two of these, separated by a slash, are for target and intermediate. PocketspecError for anything else.
    """
    parts = text.split("/")
    if len(parts) > 2:
        raise PocketspecError(f"{OPTION} {text}: at most two parts, for the target and for the intermediate")
    target, *rest = (_parse_part(part.strip(), text) for part in parts)
    return Simulation(text, target, rest[0] if rest else None)


def _parse_part(part: str, text: str) -> tuple[float, ...] | MeanLength:
    mean = _MEAN.fullmatch(part)
    if mean:
        depth = int(mean[2]) if mean[2] else None
        wanted = MeanLength(float(mean[1]), depth)
        if wanted.tokens < 1 or depth == 0:
            raise PocketspecError(f"{OPTION} {text}: a step brings at least 1 token, with drafts of at least 1")
        return wanted
    try:
        chances = tuple(float(number) for number in part.split(","))
    except ValueError:
        raise PocketspecError(
            f"{OPTION} {text}: write a chance, one for every depth as in 0.9,0.8,0.7, or mean:3.2 for an accepted"
            " length, and after a slash the same for the intermediate"
        ) from None
    if not all(0 <= chance <= 1 for chance in chances):
        raise PocketspecError(f"{OPTION} {text}: a chance lies between 0 and 1")
    return chances


def _resolve(wanted: tuple[float, ...] | MeanLength, limit: DraftLimit | None, name: str) -> tuple[float, ...]:
    if not isinstance(wanted, MeanLength):
        return wanted
    if wanted.depth is not None:
        limit = chain_limit(wanted.depth)
    if limit is None:
        raise PocketspecError(
            f"{OPTION} mean:{wanted.tokens:g}: how deep {name} drafts is not known; say with which chains that mean was"
            f" reached, as in mean:{wanted.tokens:g}@6"
        )
    return (constant_chance(wanted.tokens, limit, name),)


def constant_chance(tokens: float, limit: DraftLimit, name: str = "the draft") -> float:
    """The constant chance of acceptance with which a step with drafts of ``limit`` has ``tokens`` on average.

    PocketspecError if a step has fewer even with all drafts accepted.
    """
    if tokens > limit.depth + 1:
        raise PocketspecError(
            f"{OPTION} mean:{tokens:g}: drafts of {name} are {limit.depth} deep and bring {limit.depth + 1} tokens at"
            " most; ask for less, or for deeper drafts"
        )
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _expected(middle, limit) < tokens else (low, middle)
    return high


def _expected(chance: float, limit: DraftLimit) -> float:
    chances = (chance,) * limit.depth
    return chain_tokens(chances) if limit.shape == "chain" else tree_tokens(chances, limit.nodes)
