"""Huge pages: which memory they are asked for, and that the kernel has heard it."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from glm_edge.llama.huge_pages import ask, chosen, large_regions, may_ask

MIB = 1 << 20
MAPS = """\
00400000-00c00000 r-xp 00000000 fe:00 393222                 /usr/bin/python3
10000000-20000000 rw-p 00000000 00:00 0                      [heap]
7f0000000000-7f0002000000 rw-p 00000000 00:00 0
7f0010000000-7f0011ffffff rw-p 00000000 00:00 0
7f0020000000-7f0030000000 ---p 00000000 00:00 0
7f0040000000-7f0050000000 rw-s 00000000 00:01 7              /dev/zero (deleted)
7f0060000000-7f0070000000 rw-p 00000000 fe:00 12             /models/a model.gguf
7f0080000000-7f0090000000 rw-p 00000000 00:00 0              [anon: glibc: malloc]
"""


@pytest.mark.parametrize(
    ("text", "who"),
    [("always [madvise] never\n", "madvise"), ("[always] madvise never", "always"), ("", "")],
    ids=["madvise", "always", "no such file"],
)
def test_who_gets_huge_pages(text: str, who: str) -> None:
    assert chosen(text) == who


def test_regions_are_large_private_and_no_files() -> None:
    found = list(large_regions(MAPS.splitlines()))
    assert found == [(0x7F0000000000, 32 * MIB), (0x7F0080000000, 256 * MIB)]


def test_nothing_is_asked_of_a_system_without_huge_pages(tmp_path: Path) -> None:
    assert not may_ask(tmp_path)


@pytest.mark.skipif(not may_ask(), reason="this system does not give huge pages to those who ask")
def test_kernel_marks_what_was_asked_for() -> None:
    assert sys.platform == "linux"
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        before = _marked()
        ask()
        assert _marked() >= before + len(memory)


def _marked() -> int:
    """Bytes of this process for which huge pages are asked for ("hg" of VmFlags)."""
    marked = size = 0
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        if line.startswith("Size:"):
            size = int(line.split()[1]) << 10
        elif line.startswith("VmFlags:") and "hg" in line.split():
            marked += size
    return marked
