"""How near `glm-edge doctor` comes: its prediction beside what the engine takes, for model files of any size.

    python tests/benchmarks/doctor.py FILE...              # beside `glm-edge bench`, on a quiet machine
    python tests/benchmarks/doctor.py FILE... --cpu-time   # one thread and its processor time, on a busy one

With --cpu-time the same products are measured as the doctor's, on one thread, and a bare decode loop on the file beside
them: other programs then hardly count, but neither does what threads do to each other.
Prints a line a file: tokens per second predicted and measured, and their ratio, for decode and for prompts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from glm_edge.llama.model import Model
from glm_edge.llama.products import Products, kind_of
from glm_edge.model.gguf import read_gguf
from glm_edge.tools.bench.bare import Bare
from glm_edge.tools.doctor.probe import CHUNK, PROMPT, Rate, matrix
from glm_edge.tools.doctor.speeds import rates_of, work_of_file
from glm_edge.types import EngineConfig

_ROUNDS = 5


def by_cpu_time(path: Path) -> tuple[tuple[float, float], tuple[float, float]]:
    """(decode, prefill) rates as predicted and as measured, on one thread."""
    work = work_of_file(read_gguf(path).tensors)
    measured: dict[str, Rate] = {}
    for name in sorted({*work.every, *work.last}):
        kind, kind_name = kind_of(matrix(name), repack=True)
        products = Products(kind, 512 << 20, 1, time.process_time)
        decode = min(products.seconds_per_weight(matrix(name), 1, size=CHUNK) for _ in range(_ROUNDS))
        prefill = min(products.seconds_per_weight(matrix(name), PROMPT, size=1) for _ in range(_ROUNDS)) / PROMPT
        products.close()
        measured[name] = Rate(kind_name, decode, prefill)
    predicted = rates_of(work, measured)
    assert predicted is not None
    model = Model(path)
    bare = Bare(model, EngineConfig(path), n_ctx=1024, n_batch=128, threads=(1, 1))
    bare.prefill(8)
    bare.cut(0)
    began = time.process_time()
    bare.prefill(512)
    prefill = (time.process_time() - began) / 512
    times = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        bare.decode(1)
        times.append(time.process_time() - began)
    bare.close()
    model.close()
    return predicted, (1 / min(times), 1 / prefill)


def by_bench(path: Path) -> tuple[tuple[float, float], tuple[float, float]]:
    """(decode, prefill) rates as the doctor predicts and as bench measures, in processes of their own."""

    def said(*arguments: str) -> dict[str, dict[str, dict[str, float]]]:
        command = [sys.executable, "-m", "glm_edge", *arguments, "--model", str(path)]
        found: dict[str, dict[str, dict[str, float]]] = json.loads(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        )
        return found

    facts = next(finding["facts"] for finding in said("doctor", "--json")["findings"] if finding["topic"] == "model")
    figures = said("bench", "--json", "--runs", "1", "--streams", "")["medians"]["engine"]
    return (facts["decode_rate"], facts["prefill_rate"]), (figures["decode_rate"], figures["prefill_rate"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--cpu-time", action="store_true", help="one thread, its processor time")
    options = parser.parse_args()
    for path in options.files:
        predicted, measured = (by_cpu_time if options.cpu_time else by_bench)(path)
        for what, p, m in zip(("decode", "prefill"), predicted, measured, strict=True):
            print(f"{path.name} {what}: predicted {p:.2f}, measured {m:.2f} tokens/s, ratio {p / m:.2f}", flush=True)


if __name__ == "__main__":
    main()
