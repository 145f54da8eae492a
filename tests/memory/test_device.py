"""What a device has, read from files as Linux and containers write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory.device import Device, read_device

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 8388608 kB\nMemFree: 1048576 kB\nMemAvailable: 4194304 kB\nHugePages_Total: 0\n"}


def group(folder: str, limit: str, used: str, amounts: tuple[str, int, int]) -> dict[str, str]:
    name, most, now = amounts
    return {
        f"{folder}/{limit}": f"{most}\n",
        f"{folder}/{used}": f"{now}\n",
        f"{folder}/memory.stat": f"anon 5\n{name} 100\n",
    }


VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
VERSION_2 = ("memory.max", "memory.current")


def test_without_a_container_it_is_what_the_system_has(tmp_path: Path) -> None:
    device = read_device(write(tmp_path, MEMINFO))
    assert (device.total_bytes, device.available_bytes) == (8 * GIB, 4 * GIB)
    assert device.cores >= 1


def test_an_older_kernel_tells_free_memory_alone(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": "MemTotal: 8388608 kB\nMemFree: 1048576 kB\n"})
    assert read_device(tmp_path).available_bytes == GIB


@pytest.mark.parametrize("place", ["app/inner", "app", ""])
def test_every_group_of_version_2_counts_the_outer_ones_too(tmp_path: Path, place: str) -> None:
    write(tmp_path, MEMINFO | {"proc/self/cgroup": "0::/app/inner\n"})
    write(tmp_path, group(f"sys/fs/cgroup/{place}", *VERSION_2, ("inactive_file", 2 * GIB, GIB)))
    device = read_device(tmp_path)
    # Of what is used, pages of files that nobody needs just now can be had.
    assert (device.total_bytes, device.available_bytes) == (2 * GIB, GIB + 100)


@pytest.mark.parametrize("place", ["docker/0123", ""])
def test_a_group_of_version_1_may_lie_at_the_mount(tmp_path: Path, place: str) -> None:
    write(tmp_path, MEMINFO | {"proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/0123\n0::/\n"})
    write(tmp_path, group(f"sys/fs/cgroup/memory/{place}", *VERSION_1, ("total_inactive_file", 2 * GIB, GIB)))
    assert read_device(tmp_path).total_bytes == 2 * GIB


def test_no_limit_is_none_and_a_larger_one_than_the_machine_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, MEMINFO | {"proc/self/cgroup": "4:memory:/a\n0::/b\n", "sys/fs/cgroup/b/memory.max": "max\n"})
    write(tmp_path, group("sys/fs/cgroup/memory/a", *VERSION_1, ("total_inactive_file", 9223372036854771712, GIB)))
    assert read_device(tmp_path).available_bytes == 4 * GIB


def test_a_group_that_uses_all_it_may_has_nothing_left(tmp_path: Path) -> None:
    write(tmp_path, MEMINFO | {"proc/self/cgroup": "0::/app\n"})
    write(tmp_path, group("sys/fs/cgroup/app", *VERSION_2, ("inactive_file", GIB, 2 * GIB)))
    assert read_device(tmp_path).available_bytes == 0


def test_this_machine_has_something() -> None:
    device = read_device()
    assert 0 < device.available_bytes <= device.total_bytes


def test_what_is_usable_leaves_a_margin() -> None:
    assert Device(10 * GIB, 10 * GIB).usable_bytes == 9 * GIB
    assert Device(GIB, GIB).usable_bytes == GIB - (200 << 20)
    assert Device(GIB, 100).usable_bytes == 0
