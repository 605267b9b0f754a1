"""What the doctor says of five machines that folders describe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from glm_edge.system.device import GIB
from glm_edge.tools.doctor.examine import examine
from glm_edge.tools.doctor.host import Host
from glm_edge.tools.doctor.report import Diagnosis, as_text
from glm_edge.tools.doctor.speeds import OFFERED
from support.machines.described import MACHINES, N100, Described

ELSEWHERE = {"disk", "data", "versions", "port"}  # topics whose words depend on where the tests run
# topic -> its sentence; those of notes begin with "note: " and have what to do after "->"
SAID: dict[str, list[str]] = {
    "Pi 4": [
        "runtime: llama-cpp-python 0.3.36, portable: armv8.0_1 is in use, one of 8 variants",
        "kernels: no fast ones in use: no weights are repacked for this processor",
        "processor: note: Raspberry Pi 4 Model B Rev 1.5: NEON; without fast kernels for quantized weights "
        "-> prompts take long: keep them short, and compute fixed ones beforehand with glm-edge warm",
        "cores: 4 cores; the model runs on 4 threads",
        "clock rate: governor ondemand, up to 1.8 GHz",
        "throttling: note: slowed down since its start, now 61 °C: too little voltage, throttling -> use the "
        "power supply made for the board",
        "memory: 3.7 GiB, 3.2 available",
        "swap: note: 0.1 GiB on an SD card, which is slow and wears it out -> turn it off, or use zram: sudo "
        "dphys-swapfile swapoff; sudo systemctl disable dphys-swapfile",
        "cgroups: note: version 2; the system does not count memory, so limits on it do nothing -> add "
        "cgroup_enable=memory to /boot/firmware/cmdline.txt and restart",
        "huge pages: for programs that ask for them, as GLM Edge does where memory allows",
        "bandwidth: up to 9.0 GB of weights a second (as f16)",
        "types: ChatGLM2-6B fits as q2_k, edge-small",
        "clock: note: it is 1970-01-01 00:16 UTC, which cannot be -> set it: sudo date -s 'YYYY-MM-DD "
        "HH:MM'; certificates and times in answers go wrong",
        "locale: C.UTF-8",
        "next: glm-edge pull THUDM/chatglm2-6b --type q2_k, or glm-edge chat with the demo model",
    ],
    "Pi 5": [
        "runtime: llama-cpp-python 0.3.36, portable: armv8.2_2 is in use, one of 8 variants",
        "kernels: fast ones for iq4_nl, q4_0, q4_k, whose weights are repacked (CPU_REPACK)",
        "processor: Raspberry Pi 5 Model B Rev 1.0: dot product, NEON",
        "cores: 4 cores; the model runs on 4 threads",
        "clock rate: governor ondemand, up to 2.4 GHz",
        "throttling: none seen, 52 °C",
        "memory: 7.9 GiB, 7.2 available",
        "swap: 2.0 GiB of zram, which is memory itself",
        "cgroups: version 2; limits on memory work",
        "huge pages: for programs that ask for them, as GLM Edge does where memory allows",
        "bandwidth: up to 28.0 GB of weights a second (as f16)",
        "types: ChatGLM2-6B fits as q2_k, edge-small, q3_k_m, edge, q4_0, q4_k_m, edge-plus, q5_k_m, q6_k, q8_0",
        "clock: 2027-01-15 08:00 UTC",
        "locale: C.UTF-8",
        "next: glm-edge pull THUDM/chatglm2-6b --type edge, or glm-edge chat with the demo model",
    ],
    "N100": [
        "runtime: llama-cpp-python 0.3.36, portable: alderlake is in use, one of 8 variants",
        "kernels: fast ones for iq4_nl, q4_0, q4_k, whose weights are repacked (CPU_REPACK)",
        "processor: Intel(R) N100: AVX-VNNI, AVX2, SSE4.2",
        "cores: 4 cores; the model runs on 4 threads",
        "clock rate: governor powersave, up to 3.4 GHz",
        "throttling: none seen, 48 °C",
        "memory: 15.4 GiB, 13.4 available",
        "swap: 1.0 GiB",
        "cgroups: version 2; limits on memory work",
        "huge pages: for every program",
        "bandwidth: up to 40.0 GB of weights a second (as f16)",
        "types: ChatGLM2-6B fits as q2_k, edge-small, q3_k_m, edge, q4_0, q4_k_m, edge-plus, q5_k_m, q6_k, q8_0, f16",
        "clock: 2027-01-15 08:00 UTC",
        "locale: C.UTF-8",
        "next: glm-edge pull THUDM/chatglm2-6b --type edge, or glm-edge chat with the demo model",
    ],
    "throttled laptop": [
        "runtime: llama-cpp-python 0.3.36, built for one kind of processor",
        "kernels: fast ones for iq4_nl, q4_0, q4_k, whose weights are repacked (CPU_REPACK)",
        "processor: Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz: AVX2, SSE4.2",
        "cores: 4 cores with 8 hardware threads; the model runs on 4 threads",
        "clock rate: note: governor powersave, up to 4.0 GHz; it holds the clock down -> echo performance | "
        "sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        "throttling: note: slows down now, 97 °C: the limit is 95 °C -> a heat sink and a fan keep the "
        "speed; let the air through",
        "memory: note: 7.6 GiB, 2.9 available -> close other programs",
        "swap: none; what does not fit is refused, not swapped",
        "cgroups: version 2; limits on memory work",
        "huge pages: note: off, so weights are read more slowly -> echo madvise | sudo tee "
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "bandwidth: up to 20.0 GB of weights a second (as f16)",
        "types: note: ChatGLM2-6B fits as none of them: the smallest, q2_k, takes 2.5 GiB and the context more -> "
        "close other programs, or use a machine with 8 GB; the demo model runs",
        "clock: 2027-01-15 08:00 UTC",
        "locale: note: en_US.ISO-8859-1, not UTF-8: Chinese may be shown as question marks -> export LANG=C.UTF-8",
        "next: glm-edge chat, which runs the demo model",
    ],
    "container": [
        "runtime: llama-cpp-python 0.3.36, built for one kind of processor",
        "kernels: fast ones for iq4_nl, q4_0, q4_k, whose weights are repacked (CPU_REPACK)",
        "processor: AMD EPYC 7763: AVX2, SSE4.2",
        "cores: note: 16 cores; the container or service may use 1.5 of them, so the model runs on 1 thread "
        "-> allow more: docker run --cpus, or CPUQuota= in a unit",
        "throttling: none seen, and no thermometer",
        "memory: note: 62.0 GiB, of which the container or service may still take 1.8 -> raise its limit: "
        "docker run --memory, or MemoryMax= in a unit",
        "swap: none; what does not fit is refused, not swapped",
        "cgroups: version 2; limits on memory work",
        "huge pages: for programs that ask for them, as GLM Edge does where memory allows",
        "bandwidth: up to 24.0 GB of weights a second (as f16)",
        "types: note: ChatGLM2-6B fits as none of them: the smallest, q2_k, takes 2.5 GiB and the context more -> "
        "close other programs, or use a machine with 8 GB; the demo model runs",
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
    [("Pi 4", "an SD card"), ("Pi 5", "an NVMe disk"), ("N100", ""), ("throttled laptop", "a hard disk")],
)
def test_the_kind_of_disk_is_said(name: str, kind: str, tmp_path: Path) -> None:
    disk = next(finding for finding in look(MACHINES[name], tmp_path).findings if finding.topic == "disk")
    assert disk.text == f"{MACHINES[name].free_gib} GiB free" + (f" on {kind}" if kind else "")
    assert disk.level == ("note" if kind == "an SD card" else "ok")


def test_a_full_disk_and_a_taken_port_are_said(tmp_path: Path) -> None:
    found = {finding.topic: finding for finding in look(N100, tmp_path, port_is_free=False, free_gib=0).findings}
    assert (found["disk"].level, found["disk"].text) == ("note", "0 GiB free")
    assert (found["port"].level, found["port"].text) == ("note", "8000 is in use")


@pytest.mark.parametrize(("kind", "named"), [("AMX", True), ("CPU_REPACK", False)])
def test_amx_is_named_where_the_runtime_uses_it(kind: str, named: bool, tmp_path: Path) -> None:
    files = {**N100.files, "proc/cpuinfo": "processor : 0\nmodel name : Xeon\nflags : avx2 amx_int8"}
    found = {one.topic: one for one in look(replace(N100, files=files, kind=kind), tmp_path).findings}
    assert found["processor"].text == ("Xeon: AMX, AVX2" if named else "Xeon: AVX2")


def test_other_programs_at_work_are_said(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "loadavg").write_text("2.50 1.00 0.50 3/200 4711\n")
    load = next(finding for finding in look(N100, tmp_path).findings if finding.topic == "load")
    assert load.text == "other programs are at work (load 2.50): the speeds below are those beside them"


def test_the_table_has_every_type_and_the_text_ends_with_what_to_do(tmp_path: Path) -> None:
    lines = as_text(look(N100, tmp_path)).splitlines()
    rows = {line.split()[0]: line.split() for line in lines[-len(OFFERED) - 2 : -2]}
    assert list(rows) == list(OFFERED)
    # 20e9 weights a second, 5.97e9 of them a token, and a few percent for the rest
    assert rows["edge"] == ["edge", "3.60", "3.9", "8192", "13", "3.2"]
    assert lines[-1].startswith("next: ")


@pytest.mark.parametrize(
    ("name", "measured", "legend"),
    [
        ("N100", True, ""),
        ("N100", False, "-: not measured in time"),
        ("Pi 4", True, "-: the memory is too small"),
        ("Pi 4", False, "-: the memory is too small, or not measured in time"),
    ],
)
def test_dashes_in_the_table_are_explained(name: str, measured: bool, legend: str, tmp_path: Path) -> None:
    found = look(MACHINES[name], tmp_path)
    if not measured:
        found = replace(found, types=[replace(fit, decode=None, prefill=None) for fit in found.types])
    line = as_text(found).splitlines()[-3]
    assert line == legend if legend else line.startswith("f16 ")
