"""The disk: what kind it is and what is left, and the folders that we write to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ...system.device import GIB
from .host import Finding, Host

_LITTLE = 1 * GIB  # below which there may be no space for cached prompts


def storage(host: Host, folders: Mapping[str, Path]) -> list[Finding]:
    """Args: folders: what is kept where: data, cache, settings."""
    return [_disk(host, host.folder(folders["data"])), *(_folder(host, name, at) for name, at in folders.items())]


def _disk(host: Host, folder: Path) -> Finding:
    kind, free = _kind(host, folder), host.free(folder)
    facts = {"folder": str(folder), "kind": kind, "free": free}
    text = f"{free / GIB:.0f} GiB free" + (f" on {kind}" if kind else "")
    if free < _LITTLE:
        return Finding("disk", "note", text, f"make room at {folder}: the smallest model file takes 3 GB", facts)
    if kind == "an SD card":
        todo = "loading takes minutes, and writing wears it out: a USB or NVMe disk is better"
        return Finding("disk", "note", text, todo, facts)
    return Finding("disk", "ok", text, facts=facts)


def _kind(host: Host, folder: Path) -> str:
    """What the folder is on, in words; empty where nobody says."""
    source = ""
    longest = -1
    for line in host.text("proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if len(before.split()) < 5 or len(after.split()) < 2:
            continue
        point = Path(before.split()[4])
        if folder.is_relative_to(point) and len(point.parts) >= longest:
            longest, source = len(point.parts), after.split()[1]
    name = source.rpartition("/")[2]
    disks = [disk.rpartition("/")[2] for disk in host.names("sys/block/*")]
    disk = max((disk for disk in disks if name.startswith(disk)), key=len, default="")
    if not disk:
        return ""
    if disk.startswith("mmcblk"):
        return "an SD card" if host.text(f"sys/block/{disk}/device/type") == "SD" else "an eMMC chip"
    if disk.startswith("nvme"):
        return "an NVMe disk"
    # virtual disks (vda) say that they rotate, too
    turning = disk.startswith("sd") and host.text(f"sys/block/{disk}/queue/rotational") == "1"
    return "a hard disk" if turning else ""


def _folder(host: Host, name: str, path: Path) -> Finding:
    size = _size(path)
    facts = {"path": str(path), "bytes": size, "exists": path.is_dir()}
    text = f"{path}, {size / 1e6:.0f} MB" if path.is_dir() else f"{path}, not made yet"
    if not os.access(host.folder(path), os.W_OK):
        variable = f"XDG_{'CONFIG' if name == 'settings' else name.upper()}_HOME"
        return Finding(name, "note", f"{text}, cannot be written", f"set {variable} to a folder that can", facts)
    return Finding(name, "ok", text, facts=facts)


def _size(folder: Path) -> int:
    """Bytes of all files below."""
    total = 0
    for at, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(at, name)).st_size
            except OSError:  # it went in between
                continue
    return total
