"""Memory: how much there is and is left, swap, what cgroups say, the size of pages."""

from __future__ import annotations

from ...llama.huge_pages import ENABLED, chosen
from ...system.device import GIB, memory_available, memory_total
from .host import Finding, Host


def memory(host: Host) -> list[Finding]:
    return [_memory(host), _swap(host), *_cgroup(host), *_huge_pages(host)]


def _memory(host: Host) -> Finding:
    total, available = memory_total(host.root), memory_available(host.root)
    facts = {"total": total, "available": available}
    text = f"{total / GIB:.1f} GiB, {available / GIB:.1f} available"
    free = host.number_of("proc/meminfo", "MemAvailable")
    if free is not None and available < 0.9 * free * 1024:
        text = f"{total / GIB:.1f} GiB, of which the container or service may still take {available / GIB:.1f}"
        return Finding("memory", "note", text, "raise its limit: docker run --memory, or MemoryMax= in a unit", facts)
    if available < total / 2:
        return Finding("memory", "note", text, "close other programs", facts)
    return Finding("memory", "ok", text, facts=facts)


def _swap(host: Host) -> Finding:
    areas = [line.split() for line in host.text("proc/swaps").splitlines()[1:]]  # name, kind, KiB, used, priority
    facts = {"areas": [{"name": area[0], "bytes": int(area[2]) * 1024} for area in areas if len(area) > 2]}
    size = sum(int(area[2]) for area in areas if len(area) > 2) * 1024
    if not size:
        return Finding("swap", "ok", "none; what does not fit is refused, not swapped", facts=facts)
    text = f"{size / GIB:.1f} GiB"
    if all("zram" in area[0] for area in areas):
        return Finding("swap", "ok", f"{text} of zram, which is memory itself", facts=facts)
    on_card = any("mmcblk" in area[0] or area[0].startswith("/var/swap") for area in areas)
    if on_card and host.names("sys/block/mmcblk*"):
        return Finding(
            "swap", "note", f"{text} on an SD card, which is slow and wears it out",
            "turn it off, or use zram: sudo dphys-swapfile swapoff; sudo systemctl disable dphys-swapfile", facts,
        )  # fmt: skip
    return Finding("swap", "ok", text, facts=facts)


def _cgroup(host: Host) -> list[Finding]:
    """Whether the kernel counts memory by cgroups: Raspberry Pi OS starts without it."""
    if not host.text("proc/self/cgroup"):
        return []
    second = host.text("sys/fs/cgroup/cgroup.controllers")
    version = 2 if second else 1
    counted = "memory" in second.split() if second else bool(host.names("sys/fs/cgroup/memory"))
    facts = {"version": version, "memory": counted}
    if not counted:
        return [
            Finding(
                "cgroups", "note", f"version {version}; the system does not count memory, so limits on it do nothing",
                "add cgroup_enable=memory to /boot/firmware/cmdline.txt and restart", facts,
            )
        ]  # fmt: skip
    return [Finding("cgroups", "ok", f"version {version}; limits on memory work", facts=facts)]


def _huge_pages(host: Host) -> list[Finding]:
    enabled = chosen(host.text(ENABLED))
    facts = {"enabled": enabled}
    if not enabled:
        return []
    if enabled == "never":
        todo = f"echo madvise | sudo tee /{ENABLED}"
        return [Finding("huge pages", "note", "off, so weights are read more slowly", todo, facts)]
    who = "every program" if enabled == "always" else "programs that ask for them, as GLM Edge does where memory allows"
    return [Finding("huge pages", "ok", f"for {who}", facts=facts)]
