"""What the machine offers this process: processors and memory, and how much memory the process has taken.

Every figure is the smallest of what hardware, affinity, cgroups (version 1 and 2) and rlimits allow. The functions
take the root of the file system as an argument, so that a folder can describe another machine.
Not here: how it is used (`engine/memory_plan.py`), and what was measured on it (`profile.py`).
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 1 << 30  # bytes
# A core slower than this share of the fastest is a small one. The small cores of Arm's big.LITTLE have 0.2 to 0.6 of
# the big ones' capacity; cores that differ only by their boost clock have more than 0.9.
_BIG = 0.75
_UNLIMITED = 1 << 60  # bytes; cgroup version 1 writes a larger number for "no limit"
_BUSY = 20.0  # percent of the processors that others may use while settings are compared
_ROOT = Path("/")


@dataclass(frozen=True)
class Processors:
    """The processors that this process may use, counted in the ways that a choice of threads needs."""

    logical: int  # that this process may use, hardware threads included
    physical: int  # cores among them
    big: int  # cores among those that are not small ones of a mixed chip
    quota: float | None  # processors' worth of time that the cgroup gives; None: no limit

    @property
    def best(self) -> int:
        """Threads for the model, unmeasured: a second thread on a core, or a small core, makes the others wait."""
        return self.within(self.big)

    @property
    def every(self) -> int:
        """Threads for work in independent parts: every processor helps, a small one too."""
        return self.within(self.logical)

    def within(self, threads: int) -> int:
        """`threads`, but no more than the quota allows: above it the system stops all of them at once."""
        return max(1, threads if self.quota is None else min(threads, int(self.quota)))


def processors(root: Path = _ROOT) -> Processors:
    """The processors as the system describes them. A core counts as big unless the system says otherwise."""
    allowed = _allowed()
    if sys.platform == "darwin":
        cores = psutil.cpu_count(logical=False) or len(allowed)
        big = _sysctl("hw.perflevel0.physicalcpu") or cores
        return Processors(len(allowed), cores, min(big, cores), None)
    return _processors_of(root, allowed)


def _allowed() -> list[int]:
    """Numbers of the processors that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    return sorted(affinity(0)) if affinity is not None else list(range(os.cpu_count() or 1))


def _processors_of(root: Path, allowed: list[int]) -> Processors:
    """The same from the files of a Linux system under `root`."""
    cpus = root / "sys/devices/system/cpu"
    cores: dict[str, int] = {}  # the processors of a core -> the first of them that we may use
    for cpu in allowed:
        siblings = _text(cpus / f"cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings or f"{cpu} alone", cpu)
    physical, big = len(cores), len(_big(root, list(cores.values())))
    if not (cpus / f"cpu{allowed[0]}/topology").exists():  # Windows
        physical = big = min(psutil.cpu_count(logical=False) or len(allowed), len(allowed))
    return Processors(len(allowed), physical, big, _cpu_quota(root))


def _big(root: Path, cores: list[int]) -> list[int]:
    """The big ones of the cores: Intel names them, Arm gives capacities, others differ by clock."""
    named = _text(root / "sys/devices/cpu_core/cpus")
    if named:
        return [core for core in cores if core in _listed(named)] or cores
    for file in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = {core: _number(root / f"sys/devices/system/cpu/cpu{core}/{file}") for core in cores}
        if known := [speed for speed in speeds.values() if speed is not None]:
            return [core for core, speed in speeds.items() if speed is None or speed >= _BIG * max(known)]
    return cores


def _listed(text: str) -> set[int]:
    """The numbers of a list like 0-3,8."""
    parts = [part.partition("-") for part in text.split(",") if part]
    return {n for first, _, last in parts for n in range(int(first), int(last or first) + 1)}


def _cpu_quota(root: Path) -> float | None:
    quotas: list[float] = []
    for folder in _cgroups(root, "cpu"):
        if text := _text(folder / "cpu.max"):  # "200000 100000" or "max 100000"
            quota, _, period = text.partition(" ")
        else:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")  # -1: no limit
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def memory_available(root: Path = _ROOT) -> int:
    """Bytes that this process can take before something is swapped out or killed, the page cache counted as free."""
    machine = _meminfo(root, "MemAvailable") or psutil.virtual_memory().available
    return max(0, min([machine, *_cgroup_memory(root), *_address_space()]))


def memory_total(root: Path = _ROOT) -> int:
    """Bytes of memory that the machine has."""
    return _meminfo(root, "MemTotal") or int(psutil.virtual_memory().total)


def _meminfo(root: Path, field: str) -> int:
    """A figure of Linux's own account, in bytes; 0 where there is none."""
    fields = dict(line.split(":", 1) for line in _text(root / "proc/meminfo").splitlines())
    return int(fields[field].split()[0]) * 1024 if field in fields else 0


def _cgroup_memory(root: Path) -> list[int]:
    """Bytes left in each cgroup that we are in. File pages that it can drop at once count as left."""
    left: list[int] = []
    for folder in _cgroups(root, "memory"):
        for limit_file, used_file, droppable in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.high", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _number(folder / limit_file), _number(folder / used_file)
            if limit is not None and used is not None and limit < _UNLIMITED:
                fields = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
                left.append(limit - used + int(fields.get(droppable, 0)))
    return left


def _address_space() -> list[int]:
    """Bytes that `ulimit -v` still lets this process map."""
    if sys.platform == "win32":
        return []
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return [] if limit == resource.RLIM_INFINITY else [limit - psutil.Process().memory_info().vms]


def _cgroups(root: Path, controller: str) -> list[Path]:
    """The folders of the cgroups that this process is in, its own first, as far as a container sees them."""
    places: list[Path] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2: one tree for all
            base = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        own = base / path.lstrip("/")
        # in a container the path is the host's, and only the root of the tree exists
        above = [folder for folder in own.parents if folder.is_relative_to(base)]
        places += [folder for folder in [own, *above] if folder.is_dir()]
    return places


def peak_memory() -> int:
    """The most bytes of memory that this process had resident, mapped files included."""
    status = _text(Path("/proc/self/status"))
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def busy(seconds: float = 0.5) -> float | None:
    """Percent of the processors that programs use now, if so much that measurements would be wrong; takes `seconds`."""
    used = psutil.cpu_percent(seconds)
    return used if used > _BUSY else None


def machine() -> dict[str, str | int | float]:
    """The facts that identify a kind of machine, for measurements and their profile."""
    cpus = processors()
    return {
        "cpu": _cpu_name(),
        "architecture": platform.machine(),
        "os": platform.system(),
        "logical": cpus.logical,
        "physical": cpus.physical,
        "big": cpus.big,
        "quota": cpus.quota or 0.0,  # processors; 0 is none
        "memory_gib": round(memory_total() / GIB),
    }


def _cpu_name() -> str:
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    for key in ("model name", "Model", "Hardware", "CPU part"):  # the first on x86; boards with Arm have the others
        if fields.get(key):
            return fields[key]
    return platform.processor() or platform.machine()


def features(root: Path = _ROOT) -> frozenset[str]:
    """Names of the instruction sets as Linux lists them (avx2, avx512_vnni, asimddp…); empty elsewhere."""
    names: set[str] = set()
    for line in _text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            names |= set(value.split())
    return frozenset(names)


def _sysctl(name: str) -> int | None:
    done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return int(done.stdout) if done.stdout.strip().isdigit() else None


def _text(path: Path) -> str:
    """The text of a file of the kernel; empty if it is absent or may not be read."""
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None
