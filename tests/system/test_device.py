"""Processors and memory of machines that a folder describes, and what this one says."""

from pathlib import Path

import psutil
import pytest

from glm_edge.system.device import _processors_of, features, machine, memory_available, peak_memory, processors

CPUS = "sys/devices/system/cpu"


def write(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def siblings(*groups: str) -> dict[str, object]:
    """Files that name, for each processor in order, the processors of its core."""
    return {f"{CPUS}/cpu{i}/topology/thread_siblings_list": group for i, group in enumerate(groups)}


def speeds(file: str, *values: int) -> dict[str, object]:
    return {f"{CPUS}/cpu{i}/{file}": value for i, value in enumerate(values)}


# files, processors that may be used -> (logical, physical, big), best
MACHINES = {
    "four plain cores": (siblings("0", "1", "2", "3"), range(4), (4, 4, 4), 4),
    "two threads a core": (siblings("0,2", "1,3", "0,2", "1,3"), range(4), (4, 2, 2), 2),
    "two threads a core, one core allowed": (siblings("0,2", "1,3", "0,2", "1,3"), [0, 2], (2, 1, 1), 1),
    "big.LITTLE by capacity": (
        siblings(*"01234567") | speeds("cpu_capacity", 530, 530, 530, 530, 1024, 1024, 1020, 1020),
        range(8),
        (8, 8, 4),
        4,
    ),
    "three kinds of cores": (
        siblings(*"01234567") | speeds("cpu_capacity", 250, 250, 250, 250, 870, 870, 870, 1024),
        range(8),
        (8, 8, 4),
        4,
    ),
    "small cores alone": (
        siblings(*"0123") | speeds("cpu_capacity", 530, 530, 1024, 1024),
        [0, 1],
        (2, 2, 2),
        2,
    ),
    "hybrid by clock": (
        siblings(*"0123") | speeds("cpufreq/cpuinfo_max_freq", 5_100_000, 5_100_000, 3_500_000, 3_500_000),
        range(4),
        (4, 4, 2),
        2,
    ),
    "favoured core": (
        siblings(*"0123") | speeds("cpufreq/cpuinfo_max_freq", 5_100_000, 4_900_000, 4_900_000, 4_900_000),
        range(4),
        (4, 4, 4),
        4,
    ),
    "hybrid as Intel names it": (
        siblings("0-1", "0-1", "2-3", "2-3", "4", "5") | {"sys/devices/cpu_core/cpus": "0-3"},
        range(6),
        (6, 4, 2),
        2,
    ),
}


@pytest.mark.parametrize(("files", "allowed", "counts", "best"), MACHINES.values(), ids=MACHINES)
def test_processors_are_counted_by_what_helps(
    tmp_path: Path, files: dict[str, object], allowed: range | list[int], counts: tuple[int, int, int], best: int
) -> None:
    found = _processors_of(write(tmp_path, files), list(allowed))
    assert (found.logical, found.physical, found.big) == counts
    assert found.best == best
    assert found.every == found.logical


V2 = {"proc/self/cgroup": "0::/app/one"}
V1 = {"proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc"}

QUOTAS = {
    "none": ({}, None, 8),
    "version 2, two": (V2 | {"sys/fs/cgroup/app/one/cpu.max": "200000 100000"}, 2.0, 2),
    "version 2, no limit": (V2 | {"sys/fs/cgroup/app/one/cpu.max": "max 100000"}, None, 8),
    "version 2, the outer one is smaller": (
        V2 | {"sys/fs/cgroup/app/one/cpu.max": "600000 100000", "sys/fs/cgroup/app/cpu.max": "350000 100000"},
        3.5,
        3,
    ),
    "version 2, half a processor": (V2 | {"sys/fs/cgroup/app/one/cpu.max": "50000 100000"}, 0.5, 1),
    "version 1 inside a container": (
        V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": 400000, "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000},
        4.0,
        4,
    ),
    "version 1, no limit": (
        V1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1, "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000},
        None,
        8,
    ),
}


@pytest.mark.parametrize(("files", "quota", "best"), QUOTAS.values(), ids=QUOTAS)
def test_quota_of_the_cgroup_limits_the_threads(
    tmp_path: Path, files: dict[str, object], quota: float | None, best: int
) -> None:
    found = _processors_of(write(tmp_path, siblings(*"01234567") | files), list(range(8)))
    assert found.quota == quota
    assert found.best == found.every == best


MIB = 1 << 20
MEMORY = {
    "version 2": (
        V2
        | {
            "sys/fs/cgroup/app/one/memory.max": 64 * MIB,
            "sys/fs/cgroup/app/one/memory.current": 40 * MIB,
            "sys/fs/cgroup/app/one/memory.stat": f"anon 1\ninactive_file {10 * MIB}",
        },
        34 * MIB,
    ),
    "version 2, slowed down earlier": (
        V2
        | {
            "sys/fs/cgroup/app/one/memory.max": 64 * MIB,
            "sys/fs/cgroup/app/one/memory.high": 48 * MIB,
            "sys/fs/cgroup/app/one/memory.current": 40 * MIB,
        },
        8 * MIB,
    ),
    "version 2, more used than allowed": (
        V2 | {"sys/fs/cgroup/app/memory.max": 8 * MIB, "sys/fs/cgroup/app/memory.current": 9 * MIB},
        0,
    ),
    "version 1": (
        V1
        | {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 32 * MIB,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": 20 * MIB,
            "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {MIB}",
        },
        13 * MIB,
    ),
}


@pytest.mark.parametrize(("files", "left"), MEMORY.values(), ids=MEMORY)
def test_memory_is_what_the_cgroup_leaves(tmp_path: Path, files: dict[str, object], left: int) -> None:
    assert memory_available(write(tmp_path, files)) == left


@pytest.mark.parametrize(
    "files",
    [{}, V2 | {"sys/fs/cgroup/app/one/memory.max": "max", "sys/fs/cgroup/app/one/memory.current": 5}],
    ids=["no cgroup", "no limit"],
)
def test_memory_without_a_limit_is_the_machines(tmp_path: Path, files: dict[str, object]) -> None:
    root = write(tmp_path, files)
    assert 0 < memory_available(root) <= psutil.virtual_memory().total


def test_this_machine_is_described() -> None:
    found = processors()
    assert 1 <= found.best <= found.big <= found.physical <= found.logical
    assert 0 < memory_available() <= psutil.virtual_memory().total
    assert peak_memory() > 1 << 20
    assert machine()["cpu"]


def test_features_are_read_on_x86_and_arm(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": "processor : 0\nflags\t\t: sse2 avx2\n"})
    assert features(tmp_path) == {"sse2", "avx2"}
    write(tmp_path, {"proc/cpuinfo": "processor : 0\nFeatures\t: asimd asimddp\n"})
    assert features(tmp_path) == {"asimd", "asimddp"}
