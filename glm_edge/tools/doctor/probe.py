"""The runtime, looked at from a process of its own: what is loaded, and how fast its products are.

A library built for another processor dies at its first instruction, and must not take the doctor with it. The process
prints each result at once, as one line of JSON. So a machine that is too slow to measure everything in time has told
some of it when the process is ended. Not here: what follows from the figures (`speeds.py`, `runtime.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...system.child_process import exit_reason

if TYPE_CHECKING:
    from ...llama.products import Matrix, Products

_MEASURE_S = 2.0
_WAIT_S = 3.7  # for it all, the start of Python included
_WIDTH = 4096  # columns and rows of a matrix, as in ChatGLM2-6B
CHUNK = 64 << 20  # bytes of weights of one measurement
PROMPT = 64  # tokens of a batch; more gain little


@dataclass(frozen=True)
class Rate:
    """How fast one type of weights is computed with."""

    kind: str  # of buffer: "CPU_REPACK", "AMX", "CPU"
    decode: float  # seconds a weight for one token, weights coming from memory
    prefill: float  # seconds a weight and token of a prompt


@dataclass(frozen=True)
class Probed:
    """What the process told.

    Args:
        error: why it told no more; empty where it did what it was asked, or was ended because time was over.
        rates: by type and whether repacking was allowed.
    """

    error: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()  # of ggml's backends, as loaded
    variants: int = 0  # libraries for processors that are there to choose from
    kinds: dict[str, str] = field(default_factory=dict)  # of buffer, by type, where repacking is allowed
    rates: dict[tuple[str, bool], Rate] = field(default_factory=dict)


def probe(types: Iterable[tuple[str, bool]], *, threads: int, size: int, patience: float = _WAIT_S) -> Probed:
    """Load the runtime and measure the types, each with repacking allowed or not, as far as the time goes.

    Args:
        size: bytes of weights to read; several times the caches.
        patience: seconds after which the process is ended.
    """
    task = json.dumps({"types": list(types), "threads": threads, "size": size})
    # sys.path is handed over: the child finds what we find, and nothing in the current folder
    code = f"import sys; sys.path[:] = {sys.path!r}; from glm_edge.tools.doctor.probe import main; main(sys.argv[1])"
    child = subprocess.Popen(
        [sys.executable, "-c", code, task], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        told, said = child.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        child.kill()
        told, said = child.communicate()
        return _probed(told, "")
    finally:
        child.kill()
    return _probed(told, _why(child.returncode, said))


def _why(code: int, said: str) -> str:
    if name := exit_reason(code).signal:
        return f"killed by {name}"
    last = said.strip().splitlines()[-1:] or [f"ended with code {code}"]
    return last[0] if code else ""


def _probed(told: str, error: str) -> Probed:
    about: dict[str, Any] = {}
    rates: dict[tuple[str, bool], Rate] = {}
    for line in told.splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # the last one, cut off
            continue
        if "type" in found:
            rates[found["type"], found["repack"]] = Rate(found["kind"], found["decode"], found["prefill"])
        else:
            about |= found
    return Probed(
        error,
        about.get("versions", {}),
        tuple(about.get("libraries", ())),
        about.get("variants", 0),
        about.get("kinds", {}),
        rates,
    )


def main(text: str) -> None:
    """The process itself."""
    from ...errors import OutOfMemoryError, UnsupportedModelError
    from ...model.ggml import library_folder

    try:
        from ...llama.products import Products, kind_of
        from ...llama.runtime import runtime
    except UnsupportedModelError as error:
        sys.exit(str(error))
    task = json.loads(text)
    variants = len(list(library_folder().glob("*ggml-cpu-*")))
    _tell({"versions": runtime().versions(), "libraries": _loaded(), "variants": variants})
    wanted = [(name, repack, *kind_of(matrix(name), repack=repack)) for name, repack in task["types"]]
    _tell({"kinds": {name: kind_of(matrix(name), repack=True)[1] for name in dict(task["types"])}})
    kinds = list(dict.fromkeys(kind for _, _, kind, _ in wanted))
    for kind in kinds:
        try:
            products = Products(kind, task["size"], task["threads"])
        except OutOfMemoryError as error:
            sys.exit(str(error))
        ours = [(name, repack, kind_name) for name, repack, needed, kind_name in wanted if needed == kind]
        _measure(products, ours, _MEASURE_S / len(kinds))
        products.close()


def _measure(products: Products, types: list[tuple[str, bool, str]], seconds: float) -> None:
    """Each type in turn, until the time is over: the quickest counts, because other programs come and go."""
    best: dict[tuple[str, bool], tuple[float, float]] = {}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for name, repack, kind in types:
            decode = products.seconds_per_weight(matrix(name), 1, size=CHUNK)
            prefill = products.seconds_per_weight(matrix(name), PROMPT, size=1) / PROMPT
            before = best.get((name, repack), (decode, prefill))
            best[name, repack] = decode, prefill = min(before[0], decode), min(before[1], prefill)
            _tell({"type": name, "repack": repack, "kind": kind, "decode": decode, "prefill": prefill})
            if time.monotonic() > deadline:
                break


def matrix(name: str) -> Matrix:
    """The matrix that stands for a type."""
    from ...llama.products import Matrix
    from ...model.ggml import TYPE_IDS

    return Matrix(TYPE_IDS[name], _WIDTH, _WIDTH)


def _loaded() -> list[str]:
    """Names of ggml's backends among the libraries of this process, where the system lists them."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            names = {line.split()[-1].rpartition("/")[2] for line in maps if "ggml-cpu" in line}
    except OSError:
        return []
    return sorted(names)


def _tell(found: dict[str, object]) -> None:
    print(json.dumps(found), flush=True)
