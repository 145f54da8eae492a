"""How many threads can work at once, read from files as Linux and containers write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memory.cores import Cores, read_cores
from memory.device import read_device
from tests.memory.test_device import MEMINFO, write

EIGHT = frozenset(range(8))


def machine(root: Path, cores: int = 8, threads: int = 1) -> Path:
    """A machine of ``cores``; the threads of one core are numbered as Intel's are: i and i + cores."""
    files = {"sys/devices/system/cpu/online": f"0-{cores * threads - 1}\n"}
    for number in range(cores * threads):
        siblings = ",".join(str(number % cores + cores * thread) for thread in range(threads))
        files[f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"] = f"{siblings}\n"
    return write(root, files)


def quota_1(folder: str, quota: int, period: int = 100_000) -> dict[str, str]:
    place = f"sys/fs/cgroup/{folder}"
    return {f"{place}/cpu.cfs_quota_us": f"{quota}\n", f"{place}/cpu.cfs_period_us": f"{period}\n"}


def quota_2(folder: str, text: str) -> dict[str, str]:
    return {f"sys/fs/cgroup/{folder}/cpu.max": f"{text}\n"}


def usable(root: Path) -> int:
    return read_cores(root, EIGHT).usable


def test_without_limits_every_core_is_used(tmp_path: Path) -> None:
    assert read_cores(machine(tmp_path), EIGHT) == Cores(8, 8)
    assert usable(tmp_path) == 8


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    machine(tmp_path, 4, 2)
    assert read_cores(tmp_path, EIGHT) == Cores(4, 4)
    assert read_cores(tmp_path, {1, 5, 2}) == Cores(4, 2)


def test_the_affinity_mask_is_followed(tmp_path: Path) -> None:
    cores = read_cores(machine(tmp_path), {3})
    assert cores.usable == 1
    assert cores.reasons() == ("the machine has 8 cores", "this process may run on 1 of them (affinity)")


def test_a_machine_that_tells_nothing_of_its_processors_has_one_core_for_each(tmp_path: Path) -> None:
    assert read_cores(tmp_path, {0, 2, 5}) == Cores(3, 3)


@pytest.mark.parametrize("numbers", ["", "x", "0-", "3-1"])
def test_a_list_of_processors_that_nobody_can_read_hides_none(tmp_path: Path, numbers: str) -> None:
    write(tmp_path, {"sys/devices/system/cpu/online": numbers})
    assert read_cores(tmp_path, EIGHT).usable == 8


@pytest.mark.parametrize(("quota", "threads"), [(50_000, 1), (100_000, 1), (200_000, 2), (800_000, 8), (6_400_000, 8)])
@pytest.mark.parametrize("place", ["cpu/docker/0123", "cpu/docker", "cpu", "cpu,cpuacct/docker/0123", "cpu,cpuacct"])
def test_a_quota_of_version_1_bounds_threads(tmp_path: Path, place: str, quota: int, threads: int) -> None:
    # The folder of the group is not there inside a container that has only its own.
    machine(write(tmp_path, {"proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/0123\n0::/\n"}))
    write(tmp_path, quota_1(place, quota))
    assert usable(tmp_path) == threads


@pytest.mark.parametrize(("text", "threads"), [("50000 100000", 1), ("200000 100000", 2), ("60000 20000", 3)])
@pytest.mark.parametrize("place", ["app/inner", "app", "", "unified/app/inner", "unified"])
def test_a_quota_of_version_2_bounds_threads(tmp_path: Path, place: str, text: str, threads: int) -> None:
    machine(write(tmp_path, {"proc/self/cgroup": "0::/app/inner\n"}))
    write(tmp_path, quota_2(place, text))
    assert usable(tmp_path) == threads


@pytest.mark.parametrize(("quota", "threads"), [(1_000, 1), (100_000, 1), (150_000, 2), (200_000, 2), (210_000, 3)])
def test_a_part_of_a_processor_counts(tmp_path: Path, quota: int, threads: int) -> None:
    machine(write(tmp_path, {"proc/self/cgroup": "0::/app\n"}))
    write(tmp_path, quota_2("app", f"{quota} 100000"))
    assert usable(tmp_path) == threads


def test_of_several_quotas_the_least_counts(tmp_path: Path) -> None:
    machine(write(tmp_path, {"proc/self/cgroup": "0::/a/b/c\n"}))
    write(tmp_path, quota_2("a/b/c", "max 100000") | quota_2("a/b", "500000 100000") | quota_2("a", "300000 100000"))
    cores = read_cores(tmp_path, EIGHT)
    assert (cores.usable, cores.quota, cores.quota_file) == (3, 3.0, tmp_path / "sys/fs/cgroup/a/cpu.max")
    assert cores.reasons()[1:] == (f"{cores.quota_file} allows the time of 3 processors",)


@pytest.mark.parametrize("text", ["max 100000", "max", "", "100000", "x y", "0 100000", "100000 0", "-1 100000"])
def test_what_is_no_limit_bounds_nothing(tmp_path: Path, text: str) -> None:
    machine(write(tmp_path, {"proc/self/cgroup": "4:cpu:/a\n0::/b\n"}))
    write(tmp_path, quota_2("b", text) | quota_1("cpu/a", -1))
    assert read_cores(tmp_path, EIGHT) == Cores(8, 8)


@pytest.mark.parametrize("line", ["", "nonsense", "0::/../../outside", "0::", ":::", "4:cpu"])
def test_odd_lists_of_groups_are_borne(tmp_path: Path, line: str) -> None:
    machine(write(tmp_path, {"proc/self/cgroup": f"{line}\n"}))
    write(tmp_path, {"sys/cpu.max": "100000 100000\n"})
    assert usable(tmp_path) == 8


def test_a_group_outside_of_the_namespace_is_not_looked_for_but_what_is_mounted_counts(tmp_path: Path) -> None:
    machine(write(tmp_path, {"proc/self/cgroup": "0::/../outside\n"}))
    write(tmp_path, quota_2("", "200000 100000"))
    assert usable(tmp_path) == 2


def test_the_plan_counts_the_same_cores(tmp_path: Path) -> None:
    write(tmp_path, MEMINFO | {"proc/self/cgroup": "0::/app\n"} | quota_2("app", "100000 100000"))
    assert read_device(tmp_path).cores == 1


def test_a_system_without_affinity_counts_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert read_cores() == Cores(os.cpu_count() or 1, os.cpu_count() or 1)


def test_this_machine_can_run_something() -> None:
    cores = read_cores()
    assert 1 <= cores.usable <= cores.allowed <= cores.machine
