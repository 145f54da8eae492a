"""What a device has, read from files as Linux and containers write them."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from memory.device import Device, read_device
from memory.process import REFERENCE

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


OWN = {"proc/self/statm": "90000 20000 8000 1 0 0 0\n"}  # pages: 12,000 anonymous ones, 8,000 of files
PAGE = mmap.PAGESIZE


@pytest.mark.parametrize(
    ("version", "names"),
    [(VERSION_1, ("total_inactive_file", "total_active_file")), (VERSION_2, ("inactive_file", "active_file"))],
)
def test_what_this_process_has_of_a_container_is_not_counted_twice(
    tmp_path: Path, version: tuple[str, str], names: tuple[str, str]
) -> None:
    folder = "sys/fs/cgroup/memory" if version == VERSION_1 else "sys/fs/cgroup"
    amounts = (names[0], 130_000_000, 100_000_000)
    write(tmp_path, MEMINFO | OWN | {"proc/self/cgroup": "4:memory:/\n" if version == VERSION_1 else "0::/\n"})
    write(tmp_path, group(folder, *version, amounts))
    device = read_device(tmp_path)
    assert device.available_bytes == 30_000_100
    anonymous = min(12_000 * PAGE, REFERENCE["native"].modules)
    assert device.attainable_bytes == 30_000_100 + anonymous
    # Pages of libraries are given back only as far as the container was charged for pages in use.
    (tmp_path / folder / "memory.stat").write_text(f"{names[0]} 100\n{names[1]} 5000\n")
    assert read_device(tmp_path).attainable_bytes == device.attainable_bytes + 5000


def test_of_a_large_process_no_more_is_given_back_than_a_plan_counts(tmp_path: Path) -> None:
    write(tmp_path, MEMINFO | {"proc/self/statm": "9000000 800000 1000 1 0 0 0\n"})
    device = read_device(tmp_path)
    assert device.attainable_bytes == device.available_bytes + REFERENCE["native"].modules


def test_a_container_keeps_a_margin_of_its_own_size(tmp_path: Path) -> None:
    write(tmp_path, MEMINFO | {"proc/self/cgroup": "0::/app\n"})
    write(tmp_path, group("sys/fs/cgroup/app", *VERSION_2, ("inactive_file", 200_000_000, 1_000_100)))
    device = read_device(tmp_path)
    assert (device.container_bytes, device.usable_bytes) == (200_000_000, 199_000_000 - 10_000_000)


def test_a_short_machine_bounds_more_than_a_wide_container(tmp_path: Path) -> None:
    write(tmp_path, MEMINFO | {"proc/self/cgroup": "0::/app\n"})
    write(tmp_path, group("sys/fs/cgroup/app", *VERSION_2, ("inactive_file", 6 * GIB, 0)))
    device = read_device(tmp_path)
    assert (device.container_bytes, device.total_bytes) == (None, 6 * GIB)
    assert device.usable_bytes == Device(8 * GIB, 4 * GIB).usable_bytes


def test_this_machine_has_something() -> None:
    device = read_device()
    assert 0 < device.available_bytes <= device.total_bytes


def test_what_is_usable_leaves_a_margin() -> None:
    assert Device(10 * GIB, 10 * GIB).usable_bytes == 9 * GIB
    assert Device(GIB, GIB).usable_bytes == GIB - (200 << 20)
    assert Device(GIB, 100).usable_bytes == 0
