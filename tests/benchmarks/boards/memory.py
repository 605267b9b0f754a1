"""What a model does in the memory of a board: each file in memory cgroups of several sizes, and without a limit.

    python tests/benchmarks/boards/memory.py A.gguf B.gguf --limits 2,4,8     # GiB; needs root on Linux

Every run is a process of its own in a cgroup of its own, version 2 or 1, whichever has the memory controller. It begins
without a page of the file in memory: pages that another cgroup has read would cost this one nothing. It loads the
model as `chat` does, and twice reads a prompt and writes an answer: the second time shows what is read from the disk
once warm. Prints a table, then one JSON line. A run that the kernel kills is marked so; it is a defect of the plan.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import GlmEdgeError
from glm_edge.types import EngineConfig, Message, Request, SamplingParams

GIB = 1 << 30
CGROUPS = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def cgroup(limit: int | None) -> Iterator[Path]:
    """A memory cgroup; its folder. Removed afterwards."""
    unified = (CGROUPS / "cgroup.controllers").exists()
    folder = (CGROUPS if unified else CGROUPS / "memory") / f"glm-edge-board-{os.getpid()}"
    folder.mkdir()
    try:
        if limit is not None and unified:
            (folder / "memory.max").write_text(str(limit))
            (folder / "memory.swap.max").write_text("0")
        elif limit is not None:
            (folder / "memory.limit_in_bytes").write_text(str(limit))
            (folder / "memory.swappiness").write_text("0")
        yield folder
    finally:
        folder.rmdir()


def measure(model: Path, prompt: int, tokens: int) -> dict[str, Any]:
    """Load, read, write twice; what is read from the disk comes from the kernel's account of this process."""
    start = time.perf_counter()
    try:
        engine = LlamaEngine(EngineConfig(model))
    except GlmEdgeError as error:
        return {"refused": str(error)}
    found: dict[str, Any] = {"load_s": time.perf_counter() - start, "plan": asdict(engine.plan), "runs": []}
    for round_ in range(2):
        text = "".join(chr(0x4E00 + (number * 37 + round_ * 1111) % 8000) for number in range(prompt // 2))
        before, first = disk_bytes(), None
        for chunk in engine.submit(Request((Message("user", text),), SamplingParams(seed=1), tokens)):
            if first is None:
                first = disk_bytes()
            stats = chunk.stats
        found["runs"].append(
            {
                "prefill": stats.prefill_rate,
                "decode": stats.decode_rate,
                "prefill_bytes": first - before,
                "decode_bytes": (disk_bytes() - first) / stats.completion_tokens,
            }
        )
    engine.close()
    return found


def disk_bytes() -> int:
    """Bytes that this process has had read from a disk, mapped pages included."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def run(model: Path, limit: int | None, prompt: int, tokens: int) -> dict[str, Any]:
    """One file under one limit, in a process of its own."""
    with model.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with cgroup(limit) as folder:
        done = subprocess.run(
            [sys.executable, __file__, str(model), "--inside", f"--prompt={prompt}", f"--tokens={tokens}"],
            preexec_fn=lambda: (folder / "cgroup.procs").write_text(str(os.getpid())),
            capture_output=True,
            text=True,
            check=False,
        )
        peak = next(name for name in ("memory.peak", "memory.max_usage_in_bytes") if (folder / name).exists())
        used = int((folder / peak).read_text())
    if done.returncode == -9:
        return {"killed": True, "peak": used}
    if done.returncode:
        sys.exit(f"error: {model.name}: {done.stderr.strip()}")
    return {**json.loads(done.stdout.splitlines()[-1]), "peak": used}


def row(model: Path, limit: int | None, found: dict[str, Any], whole: dict[str, Any]) -> str:
    """A line of the table; speeds as a share of the run without a limit."""
    name = f"{model.name:<20}{f'{limit / GIB:g} GiB' if limit else 'no limit':>9}"
    if "plan" not in found:
        return f"{name}  {'KILLED by the kernel' if found.get('killed') else found['refused']}"
    last, best = found["runs"][-1], whole["runs"][-1]
    plan = found["plan"]
    return (
        f"{name} {plan['load_mode']:>7}{plan['n_ctx']:>6}{plan['n_batch']:>5}{found['load_s']:>7.1f}"
        f"{last['prefill']:>8.2f}{last['prefill'] / best['prefill']:>6.2f}{last['decode']:>7.2f}"
        f"{last['decode'] / best['decode']:>6.2f}{last['decode_bytes'] / 1e6:>9.1f}{found['peak'] / GIB:>7.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--limits", default="2,4,8", help="GiB; default 2,4,8")
    parser.add_argument("--prompt", type=int, default=256, help="tokens, about; default 256")
    parser.add_argument("--tokens", type=int, default=24, help="of an answer; default 24")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(measure(options.models[0], options.prompt, options.tokens)))
        return
    print(f"{'file':<20}{'memory':>9} {'plan':>7}{'ctx':>6}{'bat':>5}{'load s':>7}", end="")
    print(f"{'prefill':>8}{'of':>6}{'decode':>7}{'of':>6}{'MB/token':>9}{'peak':>7}")
    all_found = {}
    for model in options.models:
        whole = run(model, None, options.prompt, options.tokens)
        for limit in (None, *(int(float(size) * GIB) for size in options.limits.split(","))):
            found = whole if limit is None else run(model, limit, options.prompt, options.tokens)
            all_found[f"{model.name} {limit}"] = found
            print(row(model, limit, found, whole), flush=True)
    print(json.dumps(all_found))


if __name__ == "__main__":
    main()
