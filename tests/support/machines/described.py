"""Machines as the files of their kernels: a Raspberry Pi 4 and 5, an N100, a throttled laptop, a container."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from glm_edge.system.device import Processors
from glm_edge.tools.doctor.probe import Probed, Rate

CPU0 = "sys/devices/system/cpu/cpu0"
HUGE = "sys/kernel/mm/transparent_hugepage/enabled"
SD_CARD = {
    "proc/self/mountinfo": "24 1 179:2 / / rw shared:1 - ext4 /dev/mmcblk0p2 rw",
    "sys/block/mmcblk0/device/type": "SD",
}
ZONE = "sys/class/thermal/thermal_zone0"


@dataclass(frozen=True)
class Described:
    """A machine: its files, and what cannot be told by files.

    Args:
        giga: weights a second that one token reads, in 10^9, of every type.
        kind: the kind of buffer that q4_0 and its like get.
    """

    files: dict[str, str]
    cpus: Processors
    giga: float
    library: str = "libggml-cpu.so"
    kind: str = "CPU_REPACK"
    free_gib: int = 20
    now: float = 1_800_000_000.0  # 2027-01-15
    synchronised: bool = True
    environment: dict[str, str] = field(default_factory=lambda: {"LANG": "C.UTF-8"})

    def write(self, root: Path) -> Path:
        for name, text in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n", "utf-8")
            if path.name == "vcgencmd":
                path.chmod(0o755)
        return root

    def measure(self, types: list[tuple[str, bool]], *, threads: int, size: int) -> Probed:
        """As `probe`, without a runtime."""
        kinds = {name: self.kind if name in {"q4_0", "q4_k", "iq4_nl"} else "CPU" for name, _ in types}
        rates = {
            (name, repack): Rate(
                kinds[name] if repack else "CPU",
                1 / (self.giga * 1e9),
                1 / (self.giga * 4e9),
            )
            for name, repack in types
        }
        return Probed("", {"llama_cpp_python": "0.3.36"}, (self.library,), 8, kinds, rates)


def memory(total_kib: int, available_kib: int) -> dict[str, str]:
    return {"proc/meminfo": f"MemTotal: {total_kib} kB\nMemFree: 1 kB\nMemAvailable: {available_kib} kB"}


PI_4 = Described(
    {
        **memory(3_884_000, 3_400_000),
        **SD_CARD,
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5",
        "proc/cpuinfo": "processor : 0\nFeatures : fp asimd evtstrm crc32 cpuid",
        "proc/swaps": "Filename Type Size Used Priority\n/var/swap file 102396 0 -2",
        "proc/self/cgroup": "0::/user.slice",
        "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids",
        f"{CPU0}/cpufreq/scaling_governor": "ondemand",
        f"{CPU0}/cpufreq/cpuinfo_max_freq": "1800000",
        f"{CPU0}/cpufreq/scaling_max_freq": "1800000",
        f"{ZONE}/temp": "61300",
        "usr/bin/vcgencmd": "#!/bin/sh\necho throttled=0x50000",
        HUGE: "always [madvise] never",
    },
    Processors(4, 4, 4, None),
    giga=4.5,
    library="libggml-cpu-armv8.0_1.so",
    kind="CPU",
    free_gib=6,
    now=1_000.0,
    synchronised=False,
)
PI_5 = Described(
    {
        **memory(8_250_000, 7_600_000),
        "proc/self/mountinfo": "24 1 259:2 / / rw shared:1 - ext4 /dev/nvme0n1p2 rw",
        "sys/block/nvme0n1/queue/rotational": "0",
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0",
        "proc/cpuinfo": "processor : 0\nFeatures : fp asimd asimdhp asimddp",
        "proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 2097136 0 100",
        "proc/self/cgroup": "0::/user.slice",
        "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids",
        f"{CPU0}/cpufreq/scaling_governor": "ondemand",
        f"{CPU0}/cpufreq/cpuinfo_max_freq": "2400000",
        f"{CPU0}/cpufreq/scaling_max_freq": "2400000",
        f"{ZONE}/temp": "52000",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "0",
        "sys/class/rtc/rtc0/name": "rpi-rtc",
        HUGE: "always [madvise] never",
    },
    Processors(4, 4, 4, None),
    giga=14,
    library="libggml-cpu-armv8.2_2.so",
    free_gib=200,
)
N100 = Described(
    {
        **memory(16_100_000, 14_000_000),
        "proc/self/mountinfo": "24 1 8:2 / / rw shared:1 - ext4 /dev/sda2 rw",
        "sys/block/sda/queue/rotational": "0",
        "proc/cpuinfo": "processor : 0\nmodel name : Intel(R) N100\nflags : sse4_2 avx2 avx_vnni",
        "proc/swaps": "Filename Type Size Used Priority\n/dev/sda3 partition 1000444 0 -2",
        "proc/self/cgroup": "0::/user.slice",
        "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids",
        f"{CPU0}/cpufreq/scaling_governor": "powersave",
        f"{CPU0}/cpufreq/scaling_driver": "intel_pstate",
        f"{CPU0}/cpufreq/cpuinfo_max_freq": "3400000",
        f"{CPU0}/cpufreq/scaling_max_freq": "3400000",
        f"{CPU0}/thermal_throttle/core_throttle_count": "0",
        f"{ZONE}/temp": "48000",
        "sys/class/rtc/rtc0/name": "rtc_cmos",
        HUGE: "[always] madvise never",
    },
    Processors(4, 4, 4, None),
    giga=20,
    library="libggml-cpu-alderlake.so",
)
LAPTOP = Described(
    {
        **memory(8_000_000, 3_000_000),
        "proc/self/mountinfo": "24 1 8:2 / / rw shared:1 - ext4 /dev/sda2 rw",
        "sys/block/sda/queue/rotational": "1",
        "proc/cpuinfo": "processor : 0\nmodel name : Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz\nflags : sse4_2 avx2",
        "proc/swaps": "Filename Type Size Used Priority",
        "proc/self/cgroup": "0::/user.slice",
        "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids",
        f"{CPU0}/cpufreq/scaling_governor": "powersave",
        f"{CPU0}/cpufreq/scaling_driver": "acpi-cpufreq",
        f"{CPU0}/cpufreq/cpuinfo_max_freq": "4000000",
        f"{CPU0}/cpufreq/scaling_max_freq": "1800000",
        f"{CPU0}/thermal_throttle/core_throttle_count": "312",
        f"{ZONE}/temp": "97000",
        f"{ZONE}/trip_point_0_type": "passive",
        f"{ZONE}/trip_point_0_temp": "95000",
        "sys/class/rtc/rtc0/name": "rtc_cmos",
        HUGE: "always madvise [never]",
    },
    Processors(8, 4, 4, None),
    giga=10,
    environment={"LANG": "en_US.ISO-8859-1"},
)
CONTAINER = Described(
    {
        **memory(65_000_000, 60_000_000),
        "proc/self/mountinfo": "24 1 0:50 / / rw - overlay overlay rw",
        "proc/cpuinfo": "processor : 0\nmodel name : AMD EPYC 7763\nflags : sse4_2 avx2",
        "proc/swaps": "Filename Type Size Used Priority",
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids",
        "sys/fs/cgroup/memory.max": str(2 << 30),
        "sys/fs/cgroup/memory.current": str(200 << 20),
        "sys/class/rtc/rtc0/name": "rtc_cmos",
        HUGE: "always [madvise] never",
    },
    Processors(16, 16, 16, 1.5),
    giga=12,
    environment={},
)
MACHINES = {"Pi 4": PI_4, "Pi 5": PI_5, "N100": N100, "throttled laptop": LAPTOP, "container": CONTAINER}
