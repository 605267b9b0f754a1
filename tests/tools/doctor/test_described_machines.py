"""What the doctor says of five machines that folders describe."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_edge.system.device import GIB
from glm_edge.tools.doctor.examine import examine
from glm_edge.tools.doctor.host import Host
from glm_edge.tools.doctor.report import Diagnosis, as_text
from support.machines.described import MACHINES, N100, Described

ELSEWHERE = {"disk", "data", "versions", "port"}  # topics whose words depend on where the tests run
# topic -> its sentence; those of notes begin with "note: " and have what to do after "->"
SAID: dict[str, list[str]] = {
    "Pi 4": [
        "runtime: llama-cpp-python 0.3.36, portable: variant armv8.0_1 of 8",
        "kernels: no type is repacked for this processor",
        "processor: note: Raspberry Pi 4 Model B Rev 1.5: NEON; without fast kernels for quantized weights "
        "-> prompts take long: keep them short, and compute fixed ones beforehand with glm-edge warm",
        "cores: 4 cores; 4 threads compute",
        "clock rate: governor ondemand, up to 1.8 GHz",
        "throttling: note: slowed down since its start, now 61 °C: too little voltage, throttling -> use the "
        "power supply made for the board",
        "memory: 3.7 GiB, 3.2 available",
        "swap: note: 0.1 GiB on an SD card, which is slow and wears it out -> turn it off, or use zram: sudo "
        "dphys-swapfile swapoff; sudo systemctl disable dphys-swapfile",
        "cgroups: note: version 2, memory is not counted: limits of services do nothing -> add "
        "cgroup_enable=memory to /boot/firmware/cmdline.txt and restart",
        "huge pages: madvise, for who asks",
        "bandwidth: weights are read at up to 9.0 GB/s (as f16)",
        "types: ChatGLM2-6B fits as q2_k",
        "clock: note: it is 1970-01-01 00:16 UTC, which cannot be -> set it: sudo date -s 'YYYY-MM-DD "
        "HH:MM'; certificates and times in answers go wrong",
        "locale: C.UTF-8",
        "next: glm-edge pull THUDM/chatglm2-6b --type q2_k, or glm-edge chat with the demo model",
    ],
    "Pi 5": [
        "runtime: llama-cpp-python 0.3.36, portable: variant armv8.2_2 of 8",
        "kernels: weights are repacked for this processor (CPU_REPACK): iq4_nl, q4_0, q4_k",
        "processor: Raspberry Pi 5 Model B Rev 1.0: dot product, NEON",
        "cores: 4 cores; 4 threads compute",
        "clock rate: governor ondemand, up to 2.4 GHz",
        "throttling: none seen, 52 °C",
        "memory: 7.9 GiB, 7.2 available",
        "swap: 2.0 GiB of zram, which is memory itself",
        "cgroups: version 2, memory is counted",
        "huge pages: madvise, for who asks",
        "bandwidth: weights are read at up to 28.0 GB/s (as f16)",
        "types: ChatGLM2-6B fits as q2_k, q3_k_m, edge, q4_0, q4_k_m, q5_k_m, q6_k, q8_0",
        "clock: 2027-01-15 08:00 UTC",
        "locale: C.UTF-8",
        "next: glm-edge pull THUDM/chatglm2-6b --type edge, or glm-edge chat with the demo model",
    ],
    "N100": [
        "runtime: llama-cpp-python 0.3.36, portable: variant alderlake of 8",
        "kernels: weights are repacked for this processor (CPU_REPACK): iq4_nl, q4_0, q4_k",
        "processor: Intel(R) N100: AVX-VNNI, AVX2, SSE4.2",
        "cores: 4 cores; 4 threads compute",
        "clock rate: governor powersave, up to 3.4 GHz",
        "throttling: none seen, 48 °C",
        "memory: 15.4 GiB, 13.4 available",
        "swap: 1.0 GiB",
        "cgroups: version 2, memory is counted",
        "huge pages: always, for everybody",
        "bandwidth: weights are read at up to 40.0 GB/s (as f16)",
        "types: ChatGLM2-6B fits as q2_k, q3_k_m, edge, q4_0, q4_k_m, q5_k_m, q6_k, q8_0, f16",
        "clock: 2027-01-15 08:00 UTC",
        "locale: C.UTF-8",
        "next: glm-edge pull THUDM/chatglm2-6b --type edge, or glm-edge chat with the demo model",
    ],
    "throttled laptop": [
        "runtime: llama-cpp-python 0.3.36, built for one kind of processor",
        "kernels: weights are repacked for this processor (CPU_REPACK): iq4_nl, q4_0, q4_k",
        "processor: Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz: AVX2, SSE4.2",
        "cores: 4 cores, 8 threads; 4 threads compute",
        "clock rate: note: governor powersave, up to 4.0 GHz; it holds the clock down -> echo performance | "
        "sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        "throttling: note: slowed down now, 97 °C: at 95 °C it slows down -> a heat sink and a fan keep the "
        "speed; let the air through",
        "memory: note: 7.6 GiB, 2.9 available -> close other programs",
        "swap: none; what does not fit is refused, not swapped",
        "cgroups: version 2, memory is counted",
        "huge pages: note: off; reading weights is slower -> echo madvise | sudo tee "
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "bandwidth: weights are read at up to 20.0 GB/s (as f16)",
        "types: note: ChatGLM2-6B fits in no type: the smallest is 2.5 GiB, without its context -> close "
        "other programs, or use a machine with 8 GB; the demo model runs",
        "clock: 2027-01-15 08:00 UTC",
        "locale: note: en_US.ISO-8859-1, not UTF-8: Chinese may be shown as question marks -> export LANG=C.UTF-8",
        "next: glm-edge chat, which runs the demo model",
    ],
    "container": [
        "runtime: llama-cpp-python 0.3.36, built for one kind of processor",
        "kernels: weights are repacked for this processor (CPU_REPACK): iq4_nl, q4_0, q4_k",
        "processor: AMD EPYC 7763: AVX2, SSE4.2",
        "cores: note: 16 cores; the cgroup gives time for 1.5 of them, 1 thread computes -> give it more: "
        "docker run --cpus, or CPUQuota= in a unit",
        "throttling: none seen, no thermometer",
        "memory: note: 62.0 GiB, of which the cgroup leaves 1.8 -> raise its limit: docker run --memory, or "
        "MemoryMax= in a unit",
        "swap: none; what does not fit is refused, not swapped",
        "cgroups: version 2, memory is counted",
        "huge pages: madvise, for who asks",
        "bandwidth: weights are read at up to 24.0 GB/s (as f16)",
        "types: note: ChatGLM2-6B fits in no type: the smallest is 2.5 GiB, without its context -> close "
        "other programs, or use a machine with 8 GB; the demo model runs",
        "clock: 2027-01-15 08:00 UTC",
        "locale: note: none, not UTF-8: Chinese may be shown as question marks -> export LANG=C.UTF-8",
        "next: glm-edge chat, which runs the demo model",
    ],
}


def look(machine: Described, folder: Path, *, port_is_free: bool = True, free_gib: int | None = None) -> Diagnosis:
    free = (machine.free_gib if free_gib is None else free_gib) * GIB
    host = Host(
        machine.write(folder),
        machine.cpus,
        machine.environment,
        lambda _: free,
        lambda _: port_is_free,
        lambda: machine.synchronised,
        machine.now,
    )
    return examine(host, None, {"data": Path("/nowhere/glm-edge")}, 8000, machine.measure)


def sentences(report: Diagnosis) -> list[str]:
    return [
        f"{finding.topic}: " + (f"note: {finding.text} -> {finding.todo}" if finding.level == "note" else finding.text)
        for finding in report.findings
        if finding.topic not in ELSEWHERE
    ]


@pytest.mark.parametrize("name", MACHINES)
def test_the_words_on_a_machine(name: str, tmp_path: Path) -> None:
    report = look(MACHINES[name], tmp_path)
    assert report.ok
    assert [*sentences(report), report.next] == SAID[name]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Pi 4", "an SD card"), ("Pi 5", "an NVMe disk"), ("N100", "a disk"), ("throttled laptop", "a turning disk")],
)
def test_the_kind_of_disk_is_said(name: str, kind: str, tmp_path: Path) -> None:
    disk = next(finding for finding in look(MACHINES[name], tmp_path).findings if finding.topic == "disk")
    assert disk.text == f"{MACHINES[name].free_gib} GiB free on {kind}"
    assert disk.level == ("note" if kind == "an SD card" else "ok")


def test_a_full_disk_and_a_taken_port_are_said(tmp_path: Path) -> None:
    found = {finding.topic: finding for finding in look(N100, tmp_path, port_is_free=False, free_gib=0).findings}
    assert (found["disk"].level, found["disk"].text) == ("note", "0 GiB free on a disk")
    assert (found["port"].level, found["port"].text) == ("note", "8000 is in use")


def test_other_programs_at_work_are_said(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "loadavg").write_text("2.50 1.00 0.50 3/200 4711\n")
    load = next(finding for finding in look(N100, tmp_path).findings if finding.topic == "load")
    assert load.text == "other programs are at work (load 2.50): the speeds below are those beside them"


def test_the_table_has_every_type_and_the_text_ends_with_what_to_do(tmp_path: Path) -> None:
    lines = as_text(look(N100, tmp_path)).splitlines()
    rows = {line.split()[0]: line.split() for line in lines[-11:-2]}
    assert list(rows) == ["q2_k", "q3_k_m", "edge", "q4_0", "q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16"]
    # 20e9 weights a second, 5.97e9 of them a token, and a few percent for the rest
    assert rows["edge"] == ["edge", "3.58", "3.9", "8192", "13", "3.2"]
    assert lines[-1].startswith("next: ")
