"""Measures the way from `serve` to the first token of an answer, part by part, beside the least that it could take.

    python tests/benchmarks/serving/starts.py MODEL.gguf --rounds 3

Parts, in seconds, each from the end of the one before: `answers` (process start and imports, until the address
answers), `loads` (the child's start and imports, checks, reading, repacking, context, until /health is 200), `first
token` (of a prompt of one word). What `loads` consists of is measured once more without a server: `imports`, `checks`,
`weights` (read and repack), `context`. The least: `read`, the file once with O_DIRECT, and `repack`, the weights out of
the page cache less reading the file there.
Prints a line for each round, then medians. The file's pages are dropped from the page cache before each start, as far
as the kernel likes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

_BLOCK = 8 << 20
_CHILD = """
import json, os, sys, time
began = time.perf_counter(); found = {}
def part(name):
    global began
    now = time.perf_counter(); found[name] = now - began; began = now
from dataclasses import replace
from pathlib import Path
from glm_edge.cli.load import load_engine
from glm_edge.engine.memory_plan import plan_memory, sequence_count, weights_of
from glm_edge.engine.engine import open_model
from glm_edge.llama.context import Context
from glm_edge.llama.runtime import runtime
from glm_edge.model.checks import check_model
from glm_edge.model.gguf import read_gguf
from glm_edge.system.device import memory_available
from glm_edge.types import EngineConfig
runtime()
part("imports")
config = EngineConfig(Path(sys.argv[1]), slots=4)
file = read_gguf(config.model); check_model(file)
part("checks")
n = sequence_count(4)
plan = plan_memory(config, weights_of(file), sequences=n, available=memory_available())
if sys.argv[2:]:
    plan = replace(plan, load_mode=sys.argv[2])
began = time.perf_counter()
model = open_model(config, plan)
part("weights")
Context(model, n_ctx=plan.n_ctx, n_batch=plan.n_batch, n_sequences=n, n_outputs=8, n_threads=2, n_threads_batch=2)
part("context")
print(json.dumps(found), flush=True)
os._exit(0)  # as the engine's process ends
"""


def evict(path: Path) -> None:
    """Drop the file's pages from the page cache, as far as the kernel likes."""
    handle = os.open(path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def read_s(path: Path, *, direct: bool) -> float:
    """Seconds to read the file once."""
    handle = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
    with mmap.mmap(-1, _BLOCK) as block, open(handle, "rb", buffering=0) as file:
        began = time.perf_counter()
        while file.readinto(block):
            pass
        return time.perf_counter() - began


def parts_s(path: Path, *load_mode: str) -> dict[str, float]:
    """Parts of the load, in a process without a server; with the plan's load mode, or another."""
    done = subprocess.run([sys.executable, "-c", _CHILD, path, *load_mode], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def serve_s(path: Path, port: int) -> dict[str, float]:
    """Parts of a start, as a client sees them."""
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "glm_edge", "serve", "--model", str(path), "--port", str(port), "--no-cache"]
    command.append("--no-tune")  # tuning runs at a model's first start alone
    body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 1}
    asked = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with tempfile.TemporaryFile() as log:
        marks = [time.perf_counter()]
        with subprocess.Popen(command, stderr=log) as server:
            for name in ("livez", "health"):
                while not answers(f"{url}/{name}"):
                    if server.poll() is not None:
                        log.seek(0)
                        sys.exit(log.read().decode())
                    time.sleep(0.01)
                marks.append(time.perf_counter())
            urllib.request.urlopen(asked).read()
            marks.append(time.perf_counter())
            server.terminate()
    names = ("answers", "loads", "first token")
    return {name: end - start for name, (start, end) in zip(names, itertools.pairwise(marks), strict=True)}


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=8790)
    options = parser.parse_args()
    rounds = []
    for _ in range(options.rounds):
        evict(options.file)
        found = serve_s(options.file, options.port)
        found |= parts_s(options.file)
        found["read"] = read_s(options.file, direct=True)
        read_s(options.file, direct=False)  # into the page cache
        cached = parts_s(options.file, "none")["weights"]
        found["repack"] = max(0.0, cached - read_s(options.file, direct=False))
        found["whole"] = found["answers"] + found["loads"] + found["first token"]
        found["of the least"] = found["whole"] / (found["read"] + found["repack"])
        rounds.append(found)
        print(", ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)
    print("\nmedians")
    for name in rounds[0]:
        print(f"{name.ljust(14)}{statistics.median(found[name] for found in rounds):8.2f}")


if __name__ == "__main__":
    main()
