"""Examines the processor, the cores that this process can use, and the memory that plans may count on."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from memory.cores import Cores, read_cores
from memory.device import Device, read_device
from memory.machine import processor_name
from memory.size import show_bytes
from runtime.doctor.finding import Finding, Section
from runtime.hardware import processor_features
from runtime.kernels.build import INSTRUCTION_SETS


def machine_section() -> Section:
    """Processor and cores."""
    return Section("machine", tuple(_machine(read_cores())))


def memory_section() -> Section:
    """Memory, with the limits of this process."""
    return Section("memory", tuple(_memory(read_device())))


def _machine(cores: Cores) -> Iterator[Finding]:
    yield Finding("system", f"{platform.system()} {platform.release()} on {platform.machine()}")
    yield Finding("processor", processor_name())
    features, wanted = processor_features(), dict.fromkeys(name for each in INSTRUCTION_SETS for name in each.features)
    if features:
        has = [name for name in wanted if name in features]
        yield Finding("features", f"{' '.join(has) or 'none'} (of those that our kernels can use)")
    else:
        yield Finding("features", "this system does not tell")
    yield Finding("threads", "\n".join([f"{cores.usable} can work at once", *cores.reasons()]))


def _memory(device: Device) -> Iterator[Finding]:
    limit = device.container_bytes
    yield Finding("in all", show_bytes(device.total_bytes))
    if limit is not None:
        yield Finding("container", f"allows {show_bytes(limit)}")
    yield Finding("available", show_bytes(device.available_bytes))
    bare, usable, margin = _process_bytes(device), device.usable_bytes, show_bytes(device.margin_bytes)
    advice = None
    if usable < bare:
        remedy = "close other programs" if limit is None else "raise the limit of the container"
        advice = (
            f"{show_bytes(usable)} of memory may be used, and a process takes {show_bytes(bare)} before it holds a"
            f" model: {remedy}, or name a --max-memory that uses of the {margin} kept free for others"
        )
    yield Finding("for a plan", f"{show_bytes(usable)}; {margin} are kept free unless --max-memory says more", advice)


def _process_bytes(device: Device) -> int:
    """The bytes that a process takes without a model."""
    process = device.process("native")
    return process.modules + process.session + process.files
