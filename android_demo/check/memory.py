"""Native memory of the Kotlin engine beside its plan, in a JVM of its own for each plan.

Java's heap and what else the JVM takes for itself are told apart: the heap is in memory from the beginning, nothing is
compiled, and the JVM counts the rest. Measured is the peak, while every level runs to the last row that is planned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from android_demo.check.junit import CompiledTests, jvm
from android_demo.check.native import environment
from android_demo.check.steps import run
from memory.process import KernelKind
from runtime.kernels.build import LIBRARY

# As runtime/process/allocator.py sets it.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(256 << 10), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)}
_PROGRAM = "dev.pocketspec.MemoryProgramKt"
_HEAP = "64m"
_MEASURED = ("-Xint", "-XX:NativeMemoryTracking=summary", f"-Xms{_HEAP}", f"-Xmx{_HEAP}", "-XX:+AlwaysPreTouch")


@dataclass(frozen=True)
class NativeMemory:
    """Bytes of one plan: ``planned`` and ``taken`` of native memory, anonymous and mapped together, of the arena among
    them, and the peak of the whole ``process`` within its ``budget``. ``sizes`` says what was planned."""

    sizes: str
    planned: int
    taken: int
    planned_arena: int
    arena: int
    budget: int
    process: int

    @property
    def difference(self) -> float:
        """(taken - planned) / planned."""
        return self.taken / self.planned - 1

    def __str__(self) -> str:
        return (
            f"{self.sizes}: native memory {self.taken / 1e6:.1f} MB, {self.planned / 1e6:.1f} MB planned"
            f" ({self.difference:+.1%}); process {self.process / 1e6:.1f} of {self.budget / 1e6:.1f} MB"
        )


def native_memory(
    compiled: CompiledTests,
    bundle: Path,
    context: int,
    share: float,
    kernels: KernelKind = "native",
    threads: int = 1,
) -> NativeMemory:
    """The bytes of the plan for ``context`` tokens whose budget lies at ``share`` between the least and the most.

    StepError if it cannot be run.
    """
    machine, *others = jvm(compiled)
    library = str(LIBRARY) if kernels == "native" else ""
    words = [_PROGRAM, str(bundle), library, str(threads), str(context), str(share)]
    # Of an option that is given twice, the last one counts.
    place = others.index("-cp")
    command = [machine, *others[:place], *_MEASURED, *others[place:], *words]
    printed = run(command, environment={**environment(compiled.tools), **ALLOCATOR})
    read: dict[str, Any] = json.loads(printed.splitlines()[-1])
    planned_arena, arena = read["arena"]
    return NativeMemory(
        sizes=f"{', '.join(read['levels'])}, {read['draft']}, {read['chunk']} rows",
        planned=sum(read["planned"]),
        taken=sum(read["taken"]),
        planned_arena=planned_arena,
        arena=arena,
        budget=read["budget"],
        process=read["process"],
    )
