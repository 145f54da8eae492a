"""The model card of a drafter: what it is for, what it learned from, how good it is, and the command that made it."""

from __future__ import annotations

from dataclasses import dataclass

from export.distill.held_out import DraftQuality
from export.distill.train import TrainingProgress
from memory.machine import measured_on

_PACKAGES = ("pocketspec", "torch", "transformers")


@dataclass(frozen=True)
class DrafterCard:
    """What is known of a drafter. ``data`` says what it learned from, ``licence`` is the target's."""

    name: str
    purpose: str
    target: str
    licence: str | None
    data: str
    parameters: int
    progress: TrainingProgress
    quality: DraftQuality
    held_out: str
    command: str
    speeds: str | None = None

    def markdown(self) -> str:
        """The card, with the front matter of the Hugging Face Hub."""
        progress = self.progress
        learned = f"{progress.steps:,} steps, {progress.tokens / 1e6:.2f} M tokens, {progress.seconds / 60:.1f} min"
        lines = [
            "---",
            f"license: {self.licence or 'unknown'}",
            f"base_model: {self.target}",
            "tags: [speculative-decoding, draft-model, pocketspec]",
            "---",
            f"# {self.name}",
            "",
            f"A drafter for {self.target}: {self.purpose}. It guesses what that model will say, for",
            "speculative decoding with it alone, and knows nothing by itself.",
            "",
            "| | |",
            "| --- | --- |",
            f"| parameters | {self.parameters / 1e6:.2f} M |",
            f"| learned from | {self.data} |",
            f"| learned | {learned} |",
            f"| last training loss | {progress.loss:.3f} nats |",
            f"| judged on | {self.held_out} |",
            f"| agreement, by position in a draft | {' '.join(f'{share:.3f}' for share in self.quality.agreement)} |",
            f"| tokens a step of greedy decoding, of chains | {self.quality.tokens_a_step:.2f} |",
            f"| licence | that of the target, which wrote what it learned from: {self.licence or 'unknown'} |",
            f"| command | `{self.command}` |",
            f"| made | {measured_on(_PACKAGES)} |",
        ]
        speeds = [] if self.speeds is None else ["", "## Speed", "", self.speeds.strip()]
        return "\n".join([*lines, *speeds]) + "\n"
