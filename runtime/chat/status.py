"""The status line: speed and acceptance of the latest answer, context and memory in use."""

from __future__ import annotations

from memory.meter import Memory, read_memory
from memory.plan import Plan
from memory.size import show_bytes
from runtime.decoding.stats import GenerationStats
from runtime.engine import Engine


def status_line(engine: Engine, stats: GenerationStats | None) -> str:
    """The line now; ``stats`` are those of the latest answer, None before the first."""
    parts = []
    if stats is not None:
        parts.append(f"{stats.decode_tokens_per_second:.1f} tokens/s")
    if stats is not None and stats.drafted:
        parts.append(f"accepted {stats.acceptance_rate:.0%} of {stats.drafted:,} drafted")
    parts.append(f"context {engine.target.cache.length:,} of {engine.capacity:,}")
    parts.append(_memory(engine.plan, read_memory()))
    return " · ".join(parts)


def _memory(plan: Plan, own: Memory | None) -> str:
    """What the process has of its budget. Mapped files count as far as steps read them: the plan's hot bytes."""
    budget = show_bytes(plan.budget_bytes)
    if own is None:
        return f"memory planned {show_bytes(plan.needed_bytes)} of {budget}"
    return f"memory {show_bytes(own.anonymous_bytes + min(own.file_bytes, plan.hot_bytes))} of {budget}"
