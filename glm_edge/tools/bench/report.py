"""The result as a table for people and as one JSON line for programs. Pure, except for `describe`."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from ... import __version__
from ...llama.runtime import runtime
from ...model.values import TENSOR_TYPES, GgufFile
from ...system.device import GIB, machine
from ...system.safe_open import safe_open
from .run import Result
from .subjects import BenchTask, Figures, threads

_NAMES = {"engine": "GLM Edge", "llama_cpp": "llama_cpp.Llama"}
# figure -> how the table calls it and its format; streams and depths come after these
_ROWS: dict[str, tuple[str, str]] = {
    "load_s": ("load, s", ".2f"),
    "peak_bytes": ("peak memory, GiB", ".2f"),
    "huge_bytes": ("  in huge pages, GiB", ".2f"),
    "prefill_rate": ("prefill of {prompt} tokens, tokens/s", ".2f"),
    "bare_prefill_rate": ("  bare loop", ".2f"),
    "prefill_to_bare": ("  of the bare loop's", ".3f"),
    "decode_rate": ("decode, tokens/s", ".2f"),
    "bare_decode_rate": ("  bare loop", ".2f"),
    "decode_to_bare": ("  of the bare loop's", ".3f"),
    "own_ms": ("  more than the bare loop, ms a token", ".2f"),
    "cold_ttft_s": ("first token, cold, s", ".3f"),
    "warm_ttft_s": ("first token, second turn, s", ".3f"),
    "warm_ttft_to_bare": ("  of the bare prefill of its new tokens", ".3f"),
    "restart_ttft_s": ("first token after a restart, s", ".3f"),
    "restart_to_cold": ("  of the cold one", ".4f"),
    "arrival_wait_s": ("longest wait while a long prompt arrives, s", ".2f"),
}


def describe(task: BenchTask, file: GgufFile, tell: Callable[[int], None]) -> dict[str, object]:
    """What was measured, and on what. Reads the whole file for its hash; `tell` is called with bytes read."""
    return {
        "glm_edge": __version__,
        **runtime(task.config.runtime or "llama").versions(),
        "machine": machine(),
        "threads": threads(task.config),
        "file": file.path.name,
        "file_bytes": file.size,
        "sha256": _sha256(file.path, tell),
        "recipe": recipe(file),
        "prompt_tokens": task.prompt,
        "answer_tokens": task.answer,
        "config": {k: v for k, v in asdict(task.config).items() if k not in {"model", "cache_folder"}},
    }


def recipe(file: GgufFile) -> dict[str, int]:
    """The number of tensors of each type, the largest first."""
    return dict(Counter(TENSOR_TYPES[tensor.type][0] for tensor in file.tensors).most_common())


def recipe_text(file: GgufFile) -> str:
    """As `recipe`, in words: "113 q4_0, 85 f32"."""
    return ", ".join(f"{n} {name}" for name, n in recipe(file).items())


def with_shares(medians: Mapping[str, Figures]) -> dict[str, Figures]:
    """The medians, with the ratios that two of them give."""
    figures = {name: dict(found) for name, found in medians.items()}
    for found in figures.values():
        if found.get("cold_ttft_s") and "restart_ttft_s" in found:
            found["restart_to_cold"] = found["restart_ttft_s"] / found["cold_ttft_s"]
    return figures


def table(figures: Mapping[str, Figures], prompt: int) -> str:
    """Rows of figures: a column for each subject and, if there are two, their ratio."""
    subjects = list(figures)
    rows = [["", *(_NAMES.get(name, name) for name in subjects), *(["ratio"] if len(subjects) == 2 else [])]]
    for key, (title, form) in {**_ROWS, **_more(figures)}.items():
        values = [figures[name].get(key) for name in subjects]
        if all(value is None for value in values):
            continue
        cells = ["" if v is None else format(v / GIB if key.endswith("_bytes") else v, form) for v in values]
        if len(values) == 2 and (first := values[0]) is not None and (second := values[1]):
            cells.append(f"{first / second:.3f}")
        rows.append([title.format(prompt=prompt), *cells])
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    lines = []
    for title, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=False)]
        lines.append("  ".join([title.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)


def _more(figures: Mapping[str, Figures]) -> dict[str, tuple[str, str]]:
    """The rows of streams and depths: their names have the number."""
    rows: dict[str, tuple[str, str]] = {}
    for name in (name for found in figures.values() for name in found):
        parts = name.split("_")
        if parts[0] == "streams":
            streams = "stream" if parts[1] == "1" else "streams together"
            rows[name] = (f"{parts[1]} {streams}, tokens/s", ".2f")
        elif parts[0] == "depth":
            rows[name] = (f"{parts[2]} at {parts[1]} tokens of context, tokens/s", ".2f")
    return rows


def json_line(about: Mapping[str, object], result: Result, loads: tuple[float, float]) -> str:
    """Everything in one line. `loads`: the system's load average before and after, 0 where it has none."""
    line = {**about, "load_average": loads, "medians": with_shares(result.medians), "runs": result.runs}
    return json.dumps(line, ensure_ascii=False)


def load_average() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _sha256(path: Path, tell: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with safe_open(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
            tell(len(block))
    return digest.hexdigest()
