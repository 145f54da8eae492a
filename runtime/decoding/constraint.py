"""What an answer may consist of: the interface that the decoding loop, acceptance rules and drafters know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from runtime.decoding.stop import Cut

# One bit for each token, the lowest bit first; set: the token may follow. uint8 ``[ceil(vocab / 8)]``.
Bits = npt.NDArray[np.uint8]


class Constraint(Protocol):
    """Where an answer stands in the language that it must be of. It commits tokens as the answer does.

    ``path`` are drafted tokens behind the committed ones. For one thread at a time; ``fork`` makes one for another.
    """

    def mask(self, path: Sequence[int] = ()) -> Bits:
        """Which tokens may follow ``path``, at least one. Behind the end of the answer it is end tokens alone.

        Behind a token that is not allowed any may follow: that path will not stand. Valid until the next commit. It
        depends on the tokens before it alone, not on earlier calls.
        """
        ...

    def allows(self, path: Sequence[int], token: int) -> bool:
        """Whether ``mask(path)`` allows ``token``; much less work than all tokens."""
        ...

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` may be next, one after another."""
        ...

    def forced(self) -> Sequence[int]:
        """Tokens that must be next, whatever the model says; none where it has a choice."""
        ...

    def end(self, tokens: Sequence[int]) -> Cut | None:
        """The end of the answer within the allowed ``tokens``: where an end token or nothing may follow any more."""
        ...

    def append(self, tokens: Sequence[int]) -> None:
        """Commits ``tokens``."""
        ...

    def take_back(self, count: int) -> None:
        """Forgets the last ``count`` committed tokens."""
        ...

    def fork(self) -> Constraint:
        """A copy that goes on by itself, in any thread."""
        ...
