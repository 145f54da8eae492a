"""The processor, the cores that this process can use, and the memory that plans may count on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import suppress

from memory.cores import Cores, read_cores
from memory.device import Device, read_device
from memory.size import show_bytes
from runtime.bench.machine import processor_name
from runtime.devices import processor_features
from runtime.doctor.finding import Finding, Section
from runtime.kernels.build import INSTRUCTION_SETS

# Less than this is used up by the process itself, before it holds anything of a model (memory/reference.py).
_LEAST_BYTES = 100_000_000


def machine_section() -> Section:
    """Processor and cores."""
    return Section("machine", tuple(_machine(read_cores())))


def memory_section() -> Section:
    """Memory, with the limits that hold for this process."""
    return Section("memory", tuple(_memory(read_device(), _physical_bytes())))


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


def _memory(device: Device, physical: int | None) -> Iterator[Finding]:
    yield Finding("in all", show_bytes(device.total_bytes))
    if physical is not None and device.total_bytes < physical:
        yield Finding("container", f"its limit leaves {show_bytes(device.total_bytes)} of {show_bytes(physical)}")
    yield Finding("available", show_bytes(device.available_bytes))
    margin = device.available_bytes - device.usable_bytes
    advice = None
    if device.usable_bytes < _LEAST_BYTES:
        advice = (
            f"{show_bytes(device.usable_bytes)} of memory may be used and a process takes {show_bytes(_LEAST_BYTES)}"
            " before it holds a model: close other programs, raise the limit of the container, or name a --max-memory"
            f" that uses of the {show_bytes(margin)} kept free for others"
        )
    kept = f"{show_bytes(margin)} are kept free for others; --max-memory overrides that"
    yield Finding("for a plan", f"{show_bytes(device.usable_bytes)}; {kept}", advice)


def _physical_bytes() -> int | None:
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
