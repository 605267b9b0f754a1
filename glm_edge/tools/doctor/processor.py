"""The processor: its name and instruction sets, how much of it we get, its clock, and whether heat or power slow it."""

from __future__ import annotations

import shutil
import subprocess

from ...system.device import features
from .host import Finding, Host

# What llama.cpp has kernels for, the fastest first: the kernel's name -> the maker's.
_KNOWN = {
    "amx_int8": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX-VNNI", "avx512f": "AVX-512", "avx2": "AVX2",
    "sse4_2": "SSE4.2", "sve": "SVE", "i8mm": "I8MM", "asimddp": "dot product", "asimd": "NEON",
}  # fmt: skip
_FAST = {"avx2", "asimddp"}  # what the repacked kernels need at least
# Governors that hold the clock down; the drivers of Intel and AMD mean another thing by the name.
_SLOW_GOVERNORS = {"powersave", "userspace", "conservative"}
_OWN_GOVERNORS = {"intel_pstate", "amd-pstate-epp"}
# Bits of `vcgencmd get_throttled`, now; the same 16 higher: since the start.
_FIRMWARE = {0: "too little voltage", 1: "a capped clock", 2: "throttling", 3: "the soft limit of temperature"}
_HOT = 80  # degrees; taken as the limit where the system names none


def fast(host: Host) -> bool:
    """Whether it has what the kernels for repacked weights need; assumed where the system does not tell."""
    found = features(host.root)
    return not found or bool(found & _FAST)


def processor(host: Host, *, amx: bool) -> list[Finding]:
    """Args: amx: whether the runtime has kernels for AMX, which is of no use without them."""
    return [_features(host, amx), _cores(host), *_load(host), *_clock(host), _throttling(host)]


def _features(host: Host, amx: bool) -> Finding:
    found = features(host.root)
    named = [name for key, name in _KNOWN.items() if key in found and (amx or name != "AMX")]
    name = _name(host)
    facts = {"name": name, "features": sorted(set(_KNOWN) & found)}
    text = f"{name}: {', '.join(named)}" if named else name
    if not fast(host):
        return Finding(
            "processor", "note", f"{text}; without fast kernels for quantized weights",
            "prompts take long: keep them short, and compute fixed ones beforehand with glm-edge warm", facts,
        )  # fmt: skip
    return Finding("processor", "ok", text, facts=facts)


def _name(host: Host) -> str:
    """What people call it: the board's name where it is a board."""
    board = host.text("proc/device-tree/model")
    fields = dict(line.partition(":")[::2] for line in host.text("proc/cpuinfo").splitlines())
    known = {key.strip(): value.strip() for key, value in fields.items()}
    return board or known.get("model name") or known.get("Model") or "a processor without a name"


def _cores(host: Host) -> Finding:
    cpus = host.cpus
    text = f"{cpus.physical} {'core' if cpus.physical == 1 else 'cores'}"
    if cpus.logical > cpus.physical:
        text += f" with {cpus.logical} hardware threads"
    if cpus.big < cpus.physical:
        text += f", {cpus.big} of them big"
    facts = {"logical": cpus.logical, "physical": cpus.physical, "big": cpus.big, "quota": cpus.quota}
    facts["threads"] = cpus.best
    runs = f"the model runs on {cpus.best} {'thread' if cpus.best == 1 else 'threads'}"
    if cpus.quota is not None and cpus.quota < cpus.big:
        return Finding(
            "cores", "note", f"{text}; the container or service may use {cpus.quota:g} of them, so {runs}",
            "allow more: docker run --cpus, or CPUQuota= in a unit", facts,
        )  # fmt: skip
    return Finding("cores", "ok", f"{text}; {runs}", facts=facts)


def _load(host: Host) -> list[Finding]:
    """What other programs take while we measure."""
    words = host.text("proc/loadavg").split()
    if not words or float(words[0]) < host.cpus.physical / 2:
        return []
    text = f"other programs are at work (load {words[0]}): the speeds below are those beside them"
    return [Finding("load", "note", text, "close them and repeat", {"load": float(words[0])})]


def _clock(host: Host) -> list[Finding]:
    folder = "sys/devices/system/cpu/cpu0/cpufreq"
    governor, driver = host.text(f"{folder}/scaling_governor"), host.text(f"{folder}/scaling_driver")
    most, allowed = host.number(f"{folder}/cpuinfo_max_freq"), host.number(f"{folder}/scaling_max_freq")
    if not governor and most is None:
        return []
    facts = {"governor": governor, "driver": driver, "max_khz": most, "allowed_khz": allowed}
    text = f"governor {governor or 'unknown'}" + (f", up to {most / 1e6:.1f} GHz" if most else "")
    if governor in _SLOW_GOVERNORS and driver not in _OWN_GOVERNORS:
        todo = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        return [Finding("clock rate", "note", f"{text}; it holds the clock down", todo, facts)]
    if most and allowed and allowed < most:
        return [
            Finding(
                "clock rate", "note", f"{text}, of which {allowed / 1e6:.1f} are allowed",
                "look for a power-saving profile: powerprofilesctl set performance", facts,
            )
        ]  # fmt: skip
    return [Finding("clock rate", "ok", text, facts=facts)]


def _throttling(host: Host) -> Finding:
    hottest, limit = _temperature(host)
    firmware = _firmware(host)
    events = sum(
        host.number(name) or 0
        for name in host.names("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")
    )
    facts = {"celsius": hottest, "limit_celsius": limit, "events": events, "firmware": firmware}
    warm = f"{hottest:.0f} °C" if hottest is not None else "and no thermometer"
    now = [text for bit, text in _FIRMWARE.items() if firmware >> bit & 1]
    past = [text for bit, text in _FIRMWARE.items() if firmware >> (bit + 16) & 1]
    if hottest is not None and hottest >= (limit or _HOT) and not now:
        now = [f"the limit is {limit or _HOT:.0f} °C"]
    cool = "a heat sink and a fan keep the speed; let the air through"
    todo = "use the power supply made for the board" if any("voltage" in text for text in now + past) else cool
    if now:
        return Finding("throttling", "note", f"slows down now, {warm}: {', '.join(now)}", todo, facts)
    if past:
        return Finding("throttling", "note", f"slowed down since its start, now {warm}: {', '.join(past)}", todo, facts)
    if events:
        return Finding(
            "throttling", "note", f"slowed down {events} times by heat since its start, now {warm}", cool, facts
        )
    return Finding("throttling", "ok", f"none seen, {warm}", facts=facts)


def _temperature(host: Host) -> tuple[float | None, float | None]:
    """Degrees of the hottest zone, and those at which the first of them slows the processor down."""
    temperatures, limits = [], []
    for zone in host.names("sys/class/thermal/thermal_zone*"):
        degrees = host.number(f"{zone}/temp")
        if degrees is None or degrees <= 0:
            continue
        temperatures.append(degrees / 1000)
        for kind in host.names(f"{zone}/trip_point_*_type"):
            trip = host.number(kind.replace("_type", "_temp"))
            if host.text(kind) == "passive" and trip and trip > 0:
                limits.append(trip / 1000)
    return max(temperatures, default=None), min(limits, default=None)


def _firmware(host: Host) -> int:
    """The bits that a Raspberry Pi's firmware tells; 0 elsewhere."""
    told = host.text("sys/devices/platform/soc/soc:firmware/get_throttled")
    if not told:
        path = ":".join(str(host.root / folder) for folder in ("usr/bin", "opt/vc/bin"))
        tool = shutil.which("vcgencmd", path=path)
        if tool is None:
            return 0
        try:
            done = subprocess.run([tool, "get_throttled"], capture_output=True, text=True, timeout=1, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return 0
        told = done.stdout.strip().rpartition("=")[2]
    try:
        return int(told, 16)
    except ValueError:
        return 0
