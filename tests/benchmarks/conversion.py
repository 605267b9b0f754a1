"""Times converting in one pass beside the way around F16, and compares the bytes.

    python tests/benchmarks/make_checkpoint.py CHECKPOINT --full
    python tests/benchmarks/conversion.py CHECKPOINT --types q4_0 q4_k_m edge --runs 3

The way around is what one does otherwise: write an F16 file (ours, because no other converter reads this model), then
put it through llama.cpp's llama_model_quantize with as many threads as there are processors. Every step is a process
of its own; wall time, processor time and peak memory are the kernel's figures of it (wait4). Before each way, the
pages of its source are dropped from the page cache (posix_fadvise), so each begins with files on disk; the F16 file is
not dropped between its writing and its quantizing. Runs alternate. Every type llama.cpp knows is compared tensor by
tensor: types, shapes and all bytes. The disk needs room for the F16 file and two results beside the checkpoint.
Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from glm_edge.convert.convert import convert
from glm_edge.convert.recipes import RECIPES


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds, seconds of processor, bytes of memory."""

    wall: float
    processor: float
    peak: int


def main() -> int:
    parser = argparse.ArgumentParser(description="Times converting in one pass beside the way around F16.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--types", nargs="+", default=["q4_0", "q4_k_m", "edge"], choices=sorted(RECIPES))
    parser.add_argument("--runs", type=int, default=3, help="of each type and way; default 3")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the converted files there")
    parser.add_argument("--ours-alone", action="store_true", help="without the way around F16, so without its bytes")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(dir=options.keep or options.checkpoint.parent) as scratch:
        for name in options.types:
            around = not (options.ours_alone or name.startswith("edge"))
            results.append(compared(options.checkpoint, Path(scratch), name, options.runs, around))
            show(results[-1])
            if options.keep:
                (Path(scratch) / f"{name}.gguf").replace(options.keep / f"{name}.gguf")
    print(json.dumps({"processors": os.cpu_count(), "runs": options.runs, "types": results}))
    return 0 if all(result["same_bytes"] in (True, None) for result in results) else 1


def compared(checkpoint: Path, scratch: Path, name: str, runs: int, around: bool) -> dict[str, object]:
    """Medians of one type both ways, and whether the bytes are the same; None where llama.cpp has no such type."""
    ours, theirs, half = (scratch / f for f in (f"{name}.gguf", "theirs.gguf", "half.gguf"))
    ones: list[Cost] = []
    halves: list[Cost] = []
    rests: list[Cost] = []
    same = None
    for run in range(runs):
        forget(checkpoint.iterdir())
        ones.append(cost(lambda: convert(checkpoint, ours, type=name, force=True)))
        log(f"{name}, run {run + 1}: {ones[-1]}")
        if not around:
            continue
        forget(checkpoint.iterdir())
        halves.append(cost(lambda: convert(checkpoint, half, type="f16", force=True)))
        rests.append(cost(lambda: quantize(half, theirs, RECIPES[name].file_type)))
        log(f"  around F16: {halves[-1]}, {rests[-1]}")
        half.unlink()
        if same is None:
            same = same_tensors(ours, theirs)
        theirs.unlink()
    one, middle = median(ones), [median(halves), median(rests)] if around else []
    return {
        "type": name,
        "bytes": ours.stat().st_size,
        "one_pass": vars(one),
        "f16": vars(middle[0]) if middle else None,
        "quantize": vars(middle[1]) if middle else None,
        "ratio": one.wall / (middle[0].wall + middle[1].wall) if middle else None,
        "same_bytes": same,
    }


def cost(work: Callable[[], object]) -> Cost:
    """Runs the work in a child process; its failure ends this program."""
    start = time.perf_counter()
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            print(f"conversion: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit("conversion: a step failed")
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def quantize(source: Path, out: Path, file_type: int) -> None:
    import llama_cpp

    said: list[bytes] = []  # a line for each tensor; shown only when it fails
    keep = llama_cpp.llama_log_callback(lambda level, text, data: said.append(text))
    llama_cpp.llama_log_set(keep, ctypes.c_void_p())
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = os.cpu_count() or 1
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters)):
        raise RuntimeError(f"llama_model_quantize failed on {source}: {b''.join(said[-5:]).decode()}")


def forget(paths: Iterator[Path]) -> None:
    """Drops the pages of the files from the page cache, so that they are read from the disk."""
    os.sync()
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def same_tensors(one: Path, other: Path) -> bool:
    left, right = ({tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (one, other))
    differing = left.keys() ^ right.keys()
    for name in left.keys() & right.keys():
        a, b = left[name], right[name]
        if a.tensor_type != b.tensor_type or a.shape.tolist() != b.shape.tolist() or not np.array_equal(a.data, b.data):
            differing.add(name)
    log(f"  {len(left)} tensors, {len(differing)} of them differ: {sorted(differing)[:5]}")
    return not differing


def median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(one.wall for one in costs),
        statistics.median(one.processor for one in costs),
        int(statistics.median(one.peak for one in costs)),
    )


def show(result: dict[str, object]) -> None:
    for step in ("one_pass", "f16", "quantize"):
        figures = result[step]
        if isinstance(figures, dict):
            print(
                f"{result['type']:8} {step:9} {figures['wall']:7.1f} s  processor {figures['processor']:7.1f} s"
                f"  peak {figures['peak'] / 1e6:7.0f} MB"
            )
    if result["ratio"] is not None:
        print(f"{result['type']:8} one pass takes {result['ratio']:.2f} of the other's time; bytes", end=" ")
        print("the same" if result["same_bytes"] else "DIFFER", flush=True)


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
