"""What error compensation (GPTQ, arXiv 2210.17323) gains over the search for scales, in the same 4-bit blocks.

    python tests/benchmarks/quality/gptq.py models/demo --tokens 300 7168 --damping 0.1 1
    python tests/benchmarks/quality/gptq.py --full-size     # time and memory of two matrices of ChatGLM2-6B's shapes

The checkpoint is converted to F16, and H = X^T X of the inputs of every matrix in the layers is summed while the F16
file reads a text: the one that comes along (general) or conversations drawn from models/demo/text (drawn, another seed
than below). Then each matrix is rounded column by column, and the columns to come take over a column's error, by the
Cholesky factor of the inverse of H + damping x mean of its diagonal. The scale of a block of 32 is searched for when
its turn comes, in the weights as they are by then. All else stays as the recipe made it.

Printed is the KL divergence from F16 by that file over the KL by the same recipe with the search alone, and with the
search and the diagonal of H as importance matrix: on the held-out text and on 170 drawn conversations, with intervals
of 95 % by a bootstrap over batches of 32 tokens, in pairs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[2]))

from recipes import Runner, Sums, share_of
from recipes import quality as kl

from glm_edge.convert.convert import convert
from glm_edge.convert.quantize.recipe import LayerRule
from glm_edge.convert.quantize.rounding import BLOCK, BLOCK_BYTES, IQ4_NL, quantize_rows
from glm_edge.convert.recipes import RECIPES
from glm_edge.demo.conversations import Text
from glm_edge.llama.inputs import InputSums
from glm_edge.llama.model import Model
from glm_edge.llama.runtime import Runtime
from glm_edge.model.gguf import read_gguf
from glm_edge.model.values import TENSOR_TYPES, TensorInfo
from glm_edge.tools.imatrix import CHUNK, TEXT, read_chunks
from support.paths import PROJECT

DEMO = PROJECT / "models/demo"
Floats = NDArray[np.float32]
Measured = dict[str, Sums]  # by text
HALVES = RECIPES["edge"].special | dict.fromkeys(("embedding", "output"), (LayerRule("f16"),))
SUBJECTS = {  # the recipe of each, all searched
    "q4_0": replace(RECIPES["q4_0"], searched=True, special={"output": (LayerRule("q6_k"),)}),
    "edge": RECIPES["edge"],
    "edge, layers alone": replace(RECIPES["edge"], special=HALVES),  # embedding and output stay F16
}
GROUP = 8 * BLOCK  # columns whose errors are taken over by those behind the group in one product
FULL_SIZE = {"ffn_up": (27392, 4096), "ffn_down": (4096, 13696)}
VALUES = {"q4_0": np.arange(-8, 8), "iq4_nl": np.array(IQ4_NL)}


class InputProducts(InputSums):
    """X^T X of the inputs of every matrix in the layers, beside the sums of squares."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.products: dict[str, NDArray[np.float64]] = {}

    def _add(self, name: str, inputs: Any) -> None:
        super()._add(name, inputs)
        x = self.values(inputs).astype(np.float64)
        self.products[name] = self.products[name] + x.T @ x if name in self.products else x.T @ x


def input_products(path: Path, text: str, tokens: int) -> tuple[dict[str, NDArray[np.float64]], int]:
    """H of each matrix, and the tokens read: whole chunks, as in `glm-edge imatrix`."""
    with closing(Model(path, repack=False)) as model:
        ids = model.tokenize(text)[:tokens]
        chunk = min(CHUNK, len(ids))
        total = len(ids) // chunk * chunk
        sums = InputProducts(model.runtime)
        for _ in read_chunks(model, ids[:total], chunk, 2, sums):
            pass
    return sums.products, total


def invert_lower(lower: Floats) -> None:
    """Invert a lower triangular matrix in place, by halves: nearly all of it is products."""
    if len(lower) <= GROUP:
        lower[:] = np.linalg.inv(lower)
        return
    half = len(lower) // 2
    invert_lower(lower[:half, :half])
    invert_lower(lower[half:, half:])
    lower[half:, :half] = -(lower[half:, half:] @ (lower[half:, :half] @ lower[:half, :half]))


def factor(h: NDArray[Any], damping: float) -> Floats:
    """U, upper triangular, with U^T U = the inverse of H + damping x mean of its diagonal. Changes h."""
    h[np.diag_indices(len(h))] += damping * np.diagonal(h).mean()
    lower = np.linalg.cholesky(h[::-1, ::-1])
    invert_lower(lower)
    return np.ascontiguousarray(lower[::-1, ::-1], np.float32)


def compensated(type_name: str, rows: Floats, upper: Floats, importance: Floats) -> NDArray[np.uint8]:
    """`rows` as bytes of the type, shape (rows, bytes of a row)."""
    values = VALUES[type_name]
    grid = np.abs((np.arange(512) + 0.5 - 256)[:, None] / 2 - values).argmin(axis=1).astype(np.uint8)
    levels = values.astype(np.float32)[grid]
    w = np.ascontiguousarray(rows.T)  # (columns, rows)
    columns, count = w.shape
    out = np.empty((count, columns // BLOCK, BLOCK_BYTES), np.uint8)
    errors = np.empty((GROUP, count), np.float32)
    codes = np.empty((BLOCK, count), np.uint8)
    for start in range(0, columns, GROUP):
        end = min(start + GROUP, columns)
        for first in range(start, end, BLOCK):
            block = slice(first, first + BLOCK)
            searched = quantize_rows(type_name, np.ascontiguousarray(w[block].T), importance[block], searched=True)
            half = np.ascontiguousarray(searched[:, :2])
            scale = half.view("<f2")[:, 0].astype(np.float32)
            inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
            for j in range(BLOCK):
                column = first + j
                step = (w[column] * (2 * inverse) + 256).astype(np.intp)
                np.take(grid, step, mode="clip", out=codes[j])
                error = (w[column] - np.take(levels, step, mode="clip") * scale) / upper[column, column]
                errors[column - start] = error
                w[column + 1 : first + BLOCK] -= upper[column, column + 1 : first + BLOCK, None] * error
            out[:, first // BLOCK, :2] = half
            out[:, first // BLOCK, 2:] = (codes[:16] | codes[16:] << 4).T
            w[first + BLOCK : end] -= upper[block, first + BLOCK : end].T @ errors[first - start :][:BLOCK]
        w[end:] -= upper[start:end, end:].T @ errors[: end - start]
    return out.reshape(count, -1)


def matrices(path: Path) -> Iterator[TensorInfo]:
    """The matrices of the layers."""
    return (t for t in read_gguf(path).tensors if t.name.startswith("blk.") and len(t.shape) == 2)


def replaced(made: Path, half: Path, products: dict[str, NDArray[np.float64]], damping: float | None) -> Path:
    """A copy of `made` with other bytes in its matrices: compensated, or without damping by an importance matrix."""
    path = Path(shutil.copyfile(made, made.with_name("replaced.gguf")))
    sources = {tensor.name: tensor for tensor in matrices(half)}
    with path.open("r+b") as out, half.open("rb") as file:
        for tensor in matrices(path):
            source, h = sources[tensor.name], products[tensor.name]
            file.seek(source.offset)
            rows = np.frombuffer(file.read(source.n_bytes), "<f2").reshape(source.shape[::-1]).astype(np.float32)
            importance, type_name = np.diagonal(h).astype(np.float32), TENSOR_TYPES[tensor.type][0]
            if damping is None:
                data = quantize_rows(type_name, rows, importance, searched=True)
            else:
                data = compensated(type_name, rows, factor(h.copy(), damping), importance)
            out.seek(tensor.offset)
            out.write(data.tobytes())
    return path


def conversations(seed: int, count: int) -> str:
    text, draw = Text(DEMO / "text"), random.Random(seed)
    return "\n\n".join(
        "\n\n".join(f"[Round {number}]\n\n问：{q}\n\n答：{a}" for number, (q, a) in enumerate(text.draw(draw), 1))
        for _ in range(count)
    )


def quality(checkpoint: Path, subjects: Sequence[str], tokens: Sequence[int], dampings: Sequence[float]) -> None:
    texts = {"held-out": (DEMO / "text/heldout.txt").read_text("utf-8"), "drawn": conversations(987654, 170)}
    with tempfile.TemporaryDirectory() as folder:
        half = convert(checkpoint, Path(folder) / "f16.gguf", type="f16").path
        plain = convert(checkpoint, Path(folder) / "plain.gguf", type="q4_0").path
        reference = Runner(half, 512, 2)

        def measured(path: Path) -> Measured:
            return {name: kl(path, reference, text, 1 << 30, 2, None)[1] for name, text in texts.items()}

        def tell(subject: str, calibration: str, way: str, found: Measured, others: dict[str, Measured]) -> None:
            line: dict[str, object] = {"type": subject, "calibration": calibration, "way": way}
            for name, one in found.items():
                ratios = {other: [round(x, 3) for x in share_of(one, by[name])] for other, by in others.items()}
                line[name] = ratios | {"kl": round(float(one[:, 0].sum() / one[:, 1].sum()), 5)}
            print(json.dumps(line), flush=True)

        q4_0 = measured(plain)
        made = {name: convert(checkpoint, Path(folder) / f"{name}.gguf", type=SUBJECTS[name]).path for name in subjects}
        searched = {name: measured(path) for name, path in made.items()}
        for name, found in searched.items():
            tell(name, "", "searched", found, {"q4_0": q4_0})
        for calibration, text in (("general", TEXT.read_text("utf-8")), ("drawn", conversations(4711, 2000))):
            for count in tokens:
                products, total = input_products(half, text, count)
                for name in subjects:
                    by_matrix = measured(replaced(made[name], half, products, None))
                    others = {"q4_0": q4_0, "searched": searched[name]}
                    tell(name, f"{total} {calibration}", "importance", by_matrix, others)
                    for damping in dampings:
                        found = measured(replaced(made[name], half, products, damping))
                        tell(name, f"{total} {calibration}", f"gptq {damping}", found, others | {"matrix": by_matrix})
        reference.close()


def full_size(tokens: int) -> None:
    draw = np.random.default_rng(0)
    for name, (count, columns) in FULL_SIZE.items():
        x = draw.standard_normal((tokens, columns), np.float32)
        rows = draw.standard_normal((count, columns), np.float32) * np.float32(0.02)
        times = [(time.perf_counter(), time.process_time())]
        h = x.T @ x
        importance = np.diagonal(h).copy()
        times.append((time.perf_counter(), time.process_time()))
        upper = factor(h, 1.0)
        del h
        times.append((time.perf_counter(), time.process_time()))
        compensated("iq4_nl", rows, upper, importance)
        times.append((time.perf_counter(), time.process_time()))
        took = [[round(b - a, 1) for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(times)]
        line = dict(zip(("product", "factor", "columns"), took, strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # GB on Linux
        print(json.dumps({"matrix": name, **line, "peak_gb": round(peak, 2), "times": "wall, processor"}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", default=DEMO)
    parser.add_argument("--types", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--tokens", nargs="+", type=int, default=[300, 7168], help="of calibration")
    parser.add_argument("--damping", nargs="+", type=float, default=[0.1, 1.0])
    parser.add_argument("--full-size", action="store_true", help="time and memory instead, with 4,608 tokens")
    options = parser.parse_args()
    if options.full_size:
        full_size(4608)
    else:
        quality(options.checkpoint, options.types, options.tokens, options.damping)


if __name__ == "__main__":
    main()
