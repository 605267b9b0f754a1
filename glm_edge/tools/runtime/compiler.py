"""Zig as the C and C++ compiler of a CMake project: a folder of small programs named cc, c++, ar and ranlib.

Zig is clang with the headers of every target and of a glibc of one's choice, from the package index, on x86 and on ARM.
It names ARM features in its own way, so cc and c++ translate -march. Not here: what is built (`build.py`).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MACHINES = ("x86_64", "aarch64")  # what we build for
GLIBC = "2.28"  # the oldest that the libraries run with: Debian 10, RHEL 8, Raspberry Pi OS of 2020

# Features of -march as GCC and clang name them -> as Zig does. Those of llama.cpp's ARM variants.
_FEATURES = {
    "dotprod": "dotprod", "fp16": "fullfp16", "sve": "sve", "sve2": "sve2", "i8mm": "i8mm", "sme": "sme",
}  # fmt: skip

_PROGRAM = """#!{python} -I
import os, sys
sys.path.insert(0, {folder!r})
from compiler import zig_arguments
os.execv({zig!r}, [{zig!r}, {tool!r}, *zig_arguments(sys.argv[1:], {target!r})])
"""
_ARCHIVER = """#!/bin/sh
exec '{zig}' {tool} "$@"
"""


def zig_arguments(arguments: list[str], target: str) -> list[str]:
    """The arguments of `zig cc` for those of a compiler. Raises ValueError for an ARM feature that is not known."""
    return ["-target", target, *(_translated(argument) for argument in arguments)]


def _translated(argument: str) -> str:
    match = re.fullmatch(r"-march=armv(\d)(?:\.(\d))?-a((?:\+\w+)*)", argument)
    if match is None:
        return argument
    version, minor, features = match.groups()
    words = [f"+v{version}{f'_{minor}' if int(minor or 0) else ''}a"]
    for feature in features.split("+")[1:]:
        plain = feature.removeprefix("no")
        if plain not in _FEATURES:
            raise ValueError(f"{argument}: no translation of the feature {plain}")
        words.append(("-" if feature != plain else "+") + _FEATURES[plain])
    return "-mcpu=generic" + "".join(words)


def target_of(machine: str) -> str:
    """Zig's name of Linux on `machine` ("x86_64", "aarch64") with the glibc that we promise."""
    return f"{machine}-linux-gnu.{GLIBC}"


def write_programs(folder: Path, zig: Path, machine: str) -> dict[str, Path]:
    """Write the programs into an existing folder; returns their paths by CMake's names: CC, CXX, AR, RANLIB."""
    found: dict[str, Path] = {}
    for variable, name, tool in (("CC", "cc", "cc"), ("CXX", "c++", "c++"), ("AR", "ar", ""), ("RANLIB", "ranlib", "")):
        path = folder / name
        if tool:
            text = _PROGRAM.format(
                python=sys.executable,
                folder=str(Path(__file__).parent),
                zig=str(zig),
                tool=tool,
                target=target_of(machine),
            )
        else:
            text = _ARCHIVER.format(zig=zig, tool=name)
        path.write_text(text, "utf-8")
        path.chmod(0o755)
        found[variable] = path
    return found
