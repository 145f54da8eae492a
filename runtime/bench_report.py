"""Measurements as a Markdown table and as JSON, with everything that is needed to repeat and to doubt them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from export.manifest import Level, Manifest
from memory.meter import Memory
from memory.plan import Plan
from runtime.bench import Run, Spread, Start, spread

_MIB = 2**20


@dataclass(frozen=True)
class Report:
    """One measurement. ``baseline`` names the contender that ratios refer to, ``references`` for each the one whose
    answers its own are compared with; ``kernels`` are those in use, ``rows`` the cost of rows for every level,
    ``starts`` cold and warm ones, if they were measured."""

    command: str
    manifest: Manifest
    plan: Plan
    prompts: str
    max_new_tokens: int
    baseline: str
    references: Mapping[str, str]
    kernels: Sequence[str]
    runs: Mapping[str, Sequence[Run]]
    rows: Mapping[str, Mapping[int, Spread]]
    starts: Mapping[str, Start]
    memory: Memory | None

    def to_json(self) -> dict[str, Any]:
        """Every number, unrounded; answers as whether they equal the reference's."""
        return {
            "command": self.command,
            "device": device(),
            "versions": versions(),
            "bundle": self.manifest.name,
            "levels": {level.name: describe_level(level) for level in self.manifest.levels},
            "threads": self.plan.threads,
            "predicted_bytes": self.plan.total_bytes,
            "prompts": self.prompts,
            "max_new_tokens": self.max_new_tokens,
            "baseline": self.baseline,
            "kernels": list(self.kernels),
            "memory": asdict(self.memory) if self.memory else None,
            "starts": {name: asdict(start) for name, start in self.starts.items()},
            "contenders": {name: self._contender(name) for name in self.runs},
            "rows_seconds": {
                name: {str(count): asdict(value) for count, value in costs.items()} for name, costs in self.rows.items()
            },
        }

    def lines(self) -> Iterator[str]:
        """The Markdown form."""
        yield f"`{self.command}`"
        yield ""
        threads = f"threads {self.plan.threads or 'as ONNX Runtime chooses'}"
        yield f"{device()}; {', '.join(f'{name} {version}' for name, version in versions().items())}; {threads};"
        yield f"{self.prompts}, at most {self.max_new_tokens} tokens each; median (lowest-highest) of the repeats."
        yield f"Kernels: {', '.join(self.kernels)}."
        yield from (f"{level.role} {level.name}: {describe_level(level)}." for level in self.manifest.levels)
        yield ""
        yield from self._table()
        yield ""
        yield from self._row_table()
        for name, start in self.starts.items():
            yield (
                f"First token, {name} ({start.resident:.0%} of the mapped weights in memory):"
                f" {start.first_token_seconds:.2f} s after {start.open_seconds:.2f} s of opening."
            )
        predicted = f"Memory: {self.plan.total_bytes / _MIB:.0f} MiB planned"
        if self.memory:
            anonymous, file = self.memory.anonymous_bytes / _MIB, self.memory.file_bytes / _MIB
            predicted += f"; at the end {anonymous:.0f} MiB anonymous and {file:.0f} MiB of mapped files"
        yield predicted + "."

    def identical(self, name: str) -> int:
        """How many answers of ``name`` equal the reference's, over all repeats."""
        expected = self.runs[self.references[name]][0].answers
        return sum(
            ours == theirs for run in self.runs[name] for ours, theirs in zip(run.answers, expected, strict=True)
        )

    def _ratios(self, name: str) -> Spread:
        """Speed over the baseline's, repeat by repeat."""
        pairs = zip(self.runs[name], self.runs[self.baseline], strict=True)
        return spread([run.tokens_per_second / base.tokens_per_second for run, base in pairs])

    def _contender(self, name: str) -> dict[str, Any]:
        runs = self.runs[name]
        return {
            "tokens_per_second": asdict(spread([run.tokens_per_second for run in runs])),
            "ratio": asdict(self._ratios(name)),
            "reference": self.references[name],
            "identical": self.identical(name),
            "answers": sum(len(run.answers) for run in runs),
            "overhead_seconds_per_step": asdict(spread([run.overhead_seconds for run in runs])),
            "runs": [{key: value for key, value in asdict(run).items() if key != "answers"} for run in runs],
        }

    def _table(self) -> Iterator[str]:
        weights = self.manifest.target.weight_bytes
        named = set(self.references.values())
        reference = named.pop() if len(named) == 1 else "plain of the same kernels"
        yield (
            f"| | tokens/s | x {self.baseline} | tokens/step | accepted | answers as {reference} | draft ms/step"
            " | target ms/step | GB/s | outside ONNX Runtime |"
        )
        yield "| --- |" + " --- |" * 9
        for name, runs in self.runs.items():
            last = runs[-1]
            answers = sum(len(run.answers) for run in runs)
            accepted = f"{last.accepted / last.drafted:.0%}" if last.drafted else "-"
            overhead = spread([run.overhead_seconds * 1e6 for run in runs]).median
            step = spread([run.step_seconds / run.steps for run in runs]).median
            cells = [
                name,
                show_spread(spread([run.tokens_per_second for run in runs]), ".1f"),
                show_spread(self._ratios(name), ".2f"),
                f"{last.tokens / last.steps:.2f}",
                accepted,
                f"{self.identical(name)}/{answers}",
                f"{spread([run.draft_seconds / run.steps for run in runs]).median * 1e3:.2f}",
                f"{spread([run.target_seconds / run.steps for run in runs]).median * 1e3:.2f}",
                f"{weights / spread([run.target_seconds / run.steps for run in runs]).median / 1e9:.1f}",
                f"{overhead:.0f} us ({overhead / step / 1e4:.1f}%)",
            ]
            yield f"| {' | '.join(cells)} |"

    def _row_table(self) -> Iterator[str]:
        if not self.rows:
            return
        counts = list(next(iter(self.rows.values())))
        yield f"| ms for rows | {' | '.join(map(str, counts))} |"
        yield "| --- |" + " --- |" * len(counts)
        for name, costs in self.rows.items():
            cells = [f"{costs[count].median * 1e3:.2f}" if count in costs else "" for count in counts]
            yield f"| {name} | {' | '.join(cells)} |"
        yield ""


def device() -> str:
    """The processor, and how many of them this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = named[0] if named else name
    return f"{name}, {os.cpu_count()} processors, {platform.system()} {platform.machine()}"


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    found = {"Python": platform.python_version()}
    for name in ("pocketspec", "onnxruntime", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout, or another build of ONNX Runtime
            found[name] = "(not installed as a package)"
    return found


def show_spread(value: Spread, form: str) -> str:
    """Median and range in the format ``form``."""
    return f"{value.median:{form}} ({value.low:{form}}-{value.high:{form}})"


def describe_level(level: Level) -> str:
    """What a level is, with a label where its weights only time things."""
    label = "" if level.source.kind == "trained" else f" [{level.source.kind}]"
    block = f" in blocks of {level.quantization.block_size}" if level.quantization.block_size else ""
    return f"{level.source.id}{label}, {level.quantization.weights}{block}, {level.weight_bytes:,} bytes"
