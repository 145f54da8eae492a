"""``python -m runtime.bench.memory.empty_process KERNELS``: measures itself, and prints what it takes as JSON.

It loads what a conversation needs, runs a tiny model and holds a tiny conversation.
``runtime.calibration.process_baseline`` starts it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import runtime.bench.memory.planned_conversation  # noqa: F401
from memory.meter import Memory, read_memory
from memory.process import KernelKind, ProcessBytes


def measure_process(kernels: KernelKind) -> ProcessBytes:
    """The bytes that this process takes; it must not have done anything else before."""
    from runtime.__main__ import parse

    parse(["inspect", "."])  # as every command does
    loaded = _memory()
    from runtime.bench.memory.tiny_conversation import converse
    from runtime.bench.memory.tiny_sessions import prepare

    run = prepare(kernels)
    before = _memory()
    run()
    session = max(_memory().anonymous_bytes - before.anonymous_bytes, 0)
    converse()
    return ProcessBytes(loaded.anonymous_bytes, session, _memory().file_bytes)


def _memory() -> Memory:
    now = read_memory()
    assert now is not None
    return now


if __name__ == "__main__":
    print(json.dumps(asdict(measure_process("native" if sys.argv[1] == "native" else "portable"))))
