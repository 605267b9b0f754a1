"""What error compensation (`convert --gptq`) gains over the search for scales, and what it takes at full size.

    python tests/benchmarks/quality/gptq.py models/demo --types edge edge-small --ways plain calibrate gptq
    python tests/benchmarks/quality/gptq.py CHECKPOINT --layer  # of any size: the first layer, with random inputs

The first converts by the command itself and prints the KL divergence from F16 as a share of q4_0's, with intervals of
95 % by a paired bootstrap over batches of 32 tokens: on the held-out text of the demo and on conversations drawn from
models/demo/text (another seed than in training). `--text FILE` and `--characters` take another calibration text or the
beginning of it. The second prints seconds by the clock and of the processor for each matrix, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2]))

from recipes import Runner, quality, share_of

from glm_edge.cli import glm_edge, run
from glm_edge.convert.convert import convert, prepare
from glm_edge.convert.recipes import RECIPES
from glm_edge.convert.source.importance import Measured
from glm_edge.demo.conversations import Text
from glm_edge.tools.compensation import compensate, expected_seconds, to_compensate
from glm_edge.tools.compensation_folder import CompensationFolder
from glm_edge.tools.imatrix import CHUNK, TEXT
from support.paths import PROJECT

DEMO = PROJECT / "models/demo"
WAYS = {"plain": [], "calibrate": ["--calibrate"], "gptq": ["--gptq"]}


def conversations(seed: int, count: int) -> str:
    text, draw = Text(DEMO / "text"), random.Random(seed)
    return "\n\n".join(
        "\n\n".join(f"[Round {number}]\n\n问：{q}\n\n答：{a}" for number, (q, a) in enumerate(text.draw(draw), 1))
        for _ in range(count)
    )


def shares(options: argparse.Namespace) -> None:
    texts = {"held out": (DEMO / "text/heldout.txt").read_text("utf-8"), "drawn": conversations(987654, 170)}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text"
        text.write_text(options.text.read_text("utf-8")[: options.characters], "utf-8")
        reference = Runner(convert(options.checkpoint, Path(folder) / "f16.gguf", type="f16").path, 512, 2)

        def measured(path: Path) -> dict[str, tuple[object, ...]]:
            return {name: quality(path, reference, one, options.tokens, 2, None) for name, one in texts.items()}

        base = measured(convert(options.checkpoint, Path(folder) / "q4_0.gguf", type="q4_0").path)
        for type_name in options.types:
            for way in options.ways:
                made = Path(folder) / "x.gguf"
                more = [*WAYS[way], *(["--text", str(text)] if WAYS[way] else [])]
                command = [
                    "convert",
                    str(options.checkpoint),
                    "--type",
                    type_name,
                    "--out",
                    str(made),
                    "--force",
                    *more,
                ]
                if run(glm_edge, command, prog_name="glm-edge"):
                    raise SystemExit(1)
                line: dict[str, object] = {"type": type_name, "way": way}
                for name, (found, sums) in measured(made).items():
                    share = [round(x, 3) for x in share_of(sums, base[name][1])]
                    line[name] = {"of q4_0's": share, "kl": round(found.kl, 5), "tokens": found.tokens}
                print(json.dumps(line), flush=True)
        reference.close()


def layer(options: argparse.Namespace) -> None:
    draw, tokens = np.random.default_rng(0), 9 * CHUNK
    with tempfile.TemporaryDirectory(dir=options.disk) as name:
        out = Path(name) / "x.gguf"
        for type_name in options.types:
            tensors = to_compensate(prepare(options.checkpoint, out, RECIPES[type_name]).layout.tensors)
            expected = expected_seconds(tensors, tokens, 2)
            print(json.dumps({"type": type_name, "expected of all, s": round(expected)}), flush=True)
            first = [placed for placed in tensors if placed.tensor.name.startswith("blk.0.")]
            folder = CompensationFolder(Path(name) / f"{type_name}.gptq", "", force=False)
            keep, done = folder.keep_inputs()
            for placed in first:
                for _ in range(tokens // CHUNK):
                    keep(placed.tensor.name, draw.standard_normal((CHUNK, placed.tensor.columns), np.float32))
            done(Measured({}, tokens, CHUNK), "")
            for placed in first:
                times = time.perf_counter(), time.process_time()
                importance = np.ones(placed.tensor.columns, np.float32)
                compensate([replace(placed, importance=importance)], folder, 2, lambda done, total: None)
                took = time.perf_counter() - times[0], time.process_time() - times[1]
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # GB on Linux
                line = {
                    "matrix": placed.tensor.kind,
                    "type": placed.type,
                    "wall, processor": [round(t, 1) for t in took],
                }
                print(json.dumps(line | {"peak_gb": round(peak, 2)}), flush=True)
            folder.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--types", nargs="+", choices=RECIPES, default=["edge", "edge-small", "edge-plus"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--text", type=Path, default=TEXT, help="of calibration")
    parser.add_argument("--characters", type=int, help="of the calibration text, at most")
    parser.add_argument("--tokens", type=int, default=1 << 30, help="of each text that is measured, at most")
    parser.add_argument("--layer", action="store_true", help="time and memory of the first layer instead")
    parser.add_argument("--disk", type=Path, help="where --layer has its files, some hundreds of megabytes")
    options = parser.parse_args()
    layer(options) if options.layer else shares(options)


if __name__ == "__main__":
    main()
