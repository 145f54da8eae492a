"""How often a drafter in training guesses right, by position in a draft: running means that a user sees on the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Weight of an update of the weights in the means.
_NEW = 0.02


class RunningAgreement:
    """How often the first choice is the teacher's, by position in a draft of ``depth`` tokens: running ``shares``."""

    def __init__(self, depth: int) -> None:
        self.shares: npt.NDArray[np.float64] = np.full(depth, np.nan)

    @property
    def expected_tokens(self) -> float:
        """Tokens a step of whole drafts, the target's own included, if agreement is independent."""
        return float(1 + np.cumprod(self.shares).sum())

    def note(self, found: Sequence[float] | npt.NDArray[np.float64]) -> None:
        """Learns the shares of one update, by position."""
        latest = np.asarray(found, np.float64)
        self.shares = np.where(np.isnan(self.shares), latest, self.shares + _NEW * (latest - self.shares))
