"""Devices for plans that depend on nothing that this machine has."""

from __future__ import annotations

from memory.device import Device

AMPLE = Device(total_bytes=1 << 40, available_bytes=1 << 40, cores=2)
