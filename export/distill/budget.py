"""How the hours of ``distill --target`` are shared among its stages."""

from __future__ import annotations

from dataclasses import dataclass

from export.manifest import PocketspecError

# Answers and reading take at most these shares of all hours: what is learned from matters, but so does learning.
_ANSWERS, _READING = 1 / 3, 1 / 6
# The end, export and measurement, takes as long as the first export and a minute, and at most this share.
_END, _END_SECONDS = 1 / 4, 60.0
# Less than this share for answers, reading and learning is no use.
_LEAST = 1 / 4
# Of what is left for the three.
_ANSWERS_OF_LEFT, _READING_OF_LEFT = 0.4, 0.15


@dataclass(frozen=True)
class TimeBudget:
    """``hours`` in all, of which ``export_seconds`` went into the target's bundle."""

    hours: float
    export_seconds: float

    def check(self) -> None:
        """PocketspecError if too little is left to learn."""
        if self._left < _LEAST * self._total:
            least = (self.export_seconds + _END_SECONDS) / (1 - _END - _LEAST) / 3600
            raise PocketspecError(
                f"--hours {self.hours:g}: exporting the target took {self.export_seconds:.0f} s, which leaves no time"
                f" to learn; give at least {least:.2f}, and the work continues"
            )

    @property
    def answer_seconds(self) -> float:
        """For the target's answers."""
        return min(_ANSWERS * self._total, _ANSWERS_OF_LEFT * self._left)

    @property
    def reading_seconds(self) -> float:
        """For the teacher's distributions behind them."""
        return min(_READING * self._total, _READING_OF_LEFT * self._left)

    def learning_seconds(self, spent: float) -> float:
        """For learning, where answers and reading took ``spent``."""
        return max(0.0, self._left - spent)

    @property
    def _total(self) -> float:
        return self.hours * 3600

    @property
    def _left(self) -> float:
        """What export and end leave."""
        end = min(_END * self._total, self.export_seconds + _END_SECONDS)
        return self._total - self.export_seconds - end
