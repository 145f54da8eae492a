"""Conversations side by side, as a Markdown table and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from export.manifest import Manifest
from memory.machine import describe_device, measured_on, versions
from runtime.bench.conversation.measure import ConversationResult, ConversationSetting, ConversationTask
from runtime.bench.intervals import show_spread, spread
from runtime.bench.machine import describe_level

_MB = 10**6
# What SpecMemo reports for 20 queries with Vicuna-7B, in MB a query: everything at once, and planned.
_PAPER = (55.0, 19.5)
_COLUMNS = (
    "tokens/s",
    "with prompts",
    "tokens/step",
    "anonymous peak",
    "while loading",
    "weights (mapped)",
    "committed KV",
    "generation memory",
    "MB a query",
    "without unused KV rows",
    "history read again",
    "text as",
)


@dataclass(frozen=True)
class ConversationReport:
    """``results`` has the complete repeats of every setting; texts are compared with those of ``reference``."""

    command: str
    manifest: Manifest
    task: ConversationTask
    settings: Sequence[ConversationSetting]
    results: Mapping[str, Sequence[ConversationResult]]

    @property
    def done(self) -> list[ConversationSetting]:
        """Settings with at least one complete conversation."""
        return [setting for setting in self.settings if self.results.get(setting.name)]

    @property
    def reference(self) -> str:
        """Plain decoding, or else the first setting."""
        names = [setting.name for setting in self.done]
        return "plain" if "plain" in names else names[0]

    def identical(self, name: str) -> int:
        """How many answers of ``name`` equal those of the reference, over all repeats."""
        expected = self.results[self.reference][0].answers
        return sum(
            ours == theirs
            for result in self.results[name]
            for ours, theirs in zip(result.answers, expected, strict=True)
        )

    def lines(self) -> Iterator[str]:
        """The Markdown form."""
        yield f"`{self.command}`"
        yield ""
        yield f"{measured_on()}."
        yield from (f"{level.role} {level.name}: {describe_level(level)}." for level in self.manifest.levels)
        yield from (f"{setting.name}: {_plan(setting)}." for setting in self.settings)
        if not self.done:
            yield "No conversation came to its end."
            return
        cut = f" of at most {self.task.prompt_tokens} tokens" if self.task.prompt_tokens else ""
        yield (
            f"A conversation of {len(self.task.prompts)} turns, prompts{cut}, answers of at most"
            f" {self.task.max_new_tokens}; MB of 10**6 bytes; medians, speeds with their range over the repeats."
        )
        yield ""
        yield f"| | {' | '.join(_COLUMNS)} {self.reference} |"
        yield "| --- |" + " --- |" * len(_COLUMNS)
        for setting in self.done:
            yield f"| {setting.name} | {' | '.join(self._cells(setting.name))} |"
        yield ""
        yield from self._comparisons()

    def to_json(self) -> dict[str, Any]:
        """Every number, unrounded; answers as whether they equal the reference's."""
        return {
            "command": self.command,
            "device": describe_device(),
            "versions": versions(),
            "date": date.today().isoformat(),
            "levels": {level.name: describe_level(level) for level in self.manifest.levels},
            "turns": len(self.task.prompts),
            "plans": {setting.name: asdict(setting.plan) for setting in self.settings},
            "contenders": {setting.name: self._numbers(setting.name) for setting in self.done},
        }

    def _numbers(self, name: str) -> dict[str, Any]:
        runs = [
            {key: value for key, value in asdict(result).items() if key != "answers"}
            | {"generation_bytes": result.generation_bytes, "tokens_per_second": result.tokens_per_second}
            for result in self.results[name]
        ]
        answers = sum(len(result.answers) for result in self.results[name])
        return {"identical": self.identical(name), "answers": answers, "runs": runs}

    def _cells(self, name: str) -> list[str]:
        runs, turns = self.results[name], len(self.task.prompts)
        last = runs[-1]
        said = sum(map(len, last.answers))
        generation = self._median(name, "generation_bytes")
        return [
            show_spread(spread([result.tokens_per_second for result in runs]), ".1f"),
            show_spread(spread([sum(map(len, result.answers)) / result.seconds for result in runs]), ".1f"),
            f"{said / last.steps:.2f}",
            *(f"{self._median(name, key) / _MB:,.1f}" for key in ("running_bytes", "loading_bytes", "mapped_bytes")),
            f"{last.committed_bytes / _MB:,.1f} ({last.tokens:,} tokens)",
            f"{generation / _MB:,.1f}",
            f"{generation / _MB / turns:,.1f}",
            f"{self._median(name, 'generation_bytes_in_use') / _MB:,.1f}",
            f"{max(result.reread_tokens for result in runs):,}",
            f"{self.identical(name)}/{sum(len(result.answers) for result in runs)}",
        ]

    def _median(self, name: str, key: str) -> float:
        return spread([float(getattr(result, key)) for result in self.results[name]]).median

    def _comparisons(self) -> Iterator[str]:
        """What planning saves, and what it costs: the first planned setting against each unplanned one."""
        planned = next((setting.name for setting in self.done if setting.name.startswith("planned")), None)
        if planned is None:
            return
        for other in (setting.name for setting in self.done if not setting.planned):
            keys = ("generation_bytes", "generation_bytes_in_use", "running_bytes")
            change = [self._median(planned, key) / self._median(other, key) - 1 for key in keys]
            pairs = zip(self.results[planned], self.results[other], strict=False)
            ratio = spread([ours.tokens_per_second / theirs.tokens_per_second for ours, theirs in pairs])
            yield (
                f"{planned} against {other}: generation memory {change[0]:+.1%} (without unused KV rows"
                f" {change[1]:+.1%}), anonymous peak {change[2]:+.1%}, tokens/s x {show_spread(ratio, '.3f')}."
            )
        yield f"SpecMemo reports {_PAPER[0]:g} -> {_PAPER[1]:g} MB a query, for a model of its own (see the paper)."


def _plan(setting: ConversationSetting) -> str:
    plan, draft = setting.plan, setting.plan.draft
    shape = f"{draft.shape}s of up to {draft.nodes} by {setting.speculation.drafter}" if draft.nodes else "no drafts"
    return (
        f"context {plan.context:,}, {plan.target.kv_type} KV cache, prompts in chunks of {plan.prefill_chunk}, {shape};"
        f" predicted {plan.anonymous_bytes / _MB:,.1f} MB anonymous"
        + ("" if setting.planned else ", and what is taken at once")
    )
