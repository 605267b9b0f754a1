"""The runtime as the probe found it: which variant is loaded, and which types it repacks."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from ...errors import UnsupportedModelError
from ...llama.ik import PACKAGE, VERSION, library_path
from ...system.device import machine
from ...system.profile import ik_speeds
from .host import Finding
from .probe import Probed

_INSTALL = "pip install llama-cpp-python"
_ILLEGAL = (
    "the library was built for a newer processor: pip install --force-reinstall --no-binary :all: llama-cpp-python"
)

# Native build of GCC 12 beside the portable one, full-size q4_0, 2 threads: 2.4 and 1.67 times as fast.
AMX_UNUSED = (
    "this processor has AMX and the installed llama.cpp makes no use of it; the portable runtime (glm-edge runtime)"
    " does: measured on a Xeon with AMX, q4_0, it reads prompts 2.4 times and writes 1.7 times as fast as GCC's build"
)


def runtime(probed: Probed, *, fast: bool, amx: bool = False) -> list[Finding]:
    """What the probe found.

    Args:
        fast: whether the processor has what the kernels for repacked weights need.
        amx: whether the processor has AMX.
    """
    facts = {
        "versions": probed.versions, "libraries": probed.libraries, "variants": probed.variants, "error": probed.error,
    }  # fmt: skip
    if not probed.versions and not probed.error:  # a cold disk, or a busy machine
        return [
            Finding("runtime", "note", "not loaded in time to be looked at", "repeat it, other programs closed", facts)
        ]
    if not probed.versions:
        what, _, todo = probed.error.partition("; ")  # as UnsupportedModelError says it
        text = what if what.startswith("llama-cpp-python") else f"cannot be loaded: {what}"
        todo = todo or (_ILLEGAL if "SIGILL" in what else f"install it again: {_INSTALL}")
        return [Finding("runtime", "problem", text, todo, facts)]
    found = [Finding("runtime", "ok", f"{_name(probed)}", facts=facts)]
    if probed.error:
        todo = _ILLEGAL if "SIGILL" in probed.error else "run glm-edge bench and report what it says"
        return [*found, Finding("kernels", "problem", f"its products fail: {probed.error}", todo, facts)]
    found.append(_kernels(probed, fast))
    if amx and probed.rates and "AMX" not in probed.kinds.values():
        what, _, todo = AMX_UNUSED.partition("; ")
        found.append(Finding("AMX", "note", what, todo))
    return found


def second_runtime(probed: Probed, profiles: Path) -> list[Finding]:
    """ik_llama.cpp, where its package is installed, and how fast `bench --tune` found it to be.

    Args:
        profiles: the file of the tuned profiles.
    """
    if importlib.util.find_spec("ik_llama_cpp") is None:
        return []
    try:
        library_path()
    except UnsupportedModelError as error:
        what, _, todo = str(error).partition("; ")
        return [Finding("ik_llama.cpp", "note", what, todo)]
    speeds = ik_speeds(profiles, {**machine(), **probed.versions, "ik_llama_cpp_python": VERSION})
    text = f"{PACKAGE} {VERSION} is installed, for --runtime ik"
    facts = {"version": VERSION, "speeds": speeds}
    if not speeds:
        return [Finding("ik_llama.cpp", "ok", f"{text}; bench --tune measures its speed", facts=facts)]
    shown = ", ".join(f"{type} {speed:.2f}" for type, speed in speeds.items())
    return [Finding("ik_llama.cpp", "ok", f"{text}; its speed, of llama.cpp's, by bench --tune: {shown}", facts=facts)]


def _name(probed: Probed) -> str:
    version = f"llama-cpp-python {probed.versions.get('llama_cpp_python', '')}"
    variants = [
        match[1] for name in probed.libraries if (match := re.match(r"(?:lib)?ggml-cpu-(.+)\.(?:so|dll|dylib)", name))
    ]
    if variants:
        return f"{version}, portable: {variants[0]} is in use, one of {probed.variants} variants"
    return f"{version}, built for one kind of processor"


def _kernels(probed: Probed, fast: bool) -> Finding:
    repacked = sorted(name for name, kind in probed.kinds.items() if kind != "CPU")
    kinds = sorted({probed.kinds[name] for name in repacked})
    facts = {"repacked": repacked, "kinds": kinds, "measured": len(probed.rates)}
    if not probed.rates:
        return Finding("kernels", "note", "not measured in time", "close other programs and repeat", facts)
    if repacked:
        text = f"fast ones for {', '.join(repacked)}, whose weights are repacked ({', '.join(kinds)})"
        return Finding("kernels", "ok", text, facts=facts)
    text = "no fast ones in use: no weights are repacked for this processor"
    if not fast:
        return Finding("kernels", "ok", text, facts=facts)
    todo = "build it on this machine: pip install --force-reinstall --no-binary :all: llama-cpp-python"
    return Finding("kernels", "note", f"{text}, though it could have them", todo, facts)
