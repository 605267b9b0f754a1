"""Compares recipes: size of ChatGLM2-6B, error of the weights, and on a model perplexity and distance from F16.

    python tests/benchmarks/quality/recipes.py  # sizes and weight errors: a few seconds
    python tests/benchmarks/quality/recipes.py --model-checkpoint models/demo --text models/demo/text/heldout.txt
    python tests/benchmarks/quality/recipes.py --recipes edge q4_0 …  # some alone
    python tests/benchmarks/quality/recipes.py … --imatrix FILE  # each once more with an importance matrix
    python tests/benchmarks/quality/recipes.py --recipes q4_0 --alone q3_k …  # q3_k in one kind, all others F16

Size is computed from the shapes. Weight error is the root mean square error over that of the weights, on rows of 4096
and 13696 from a Student t of 5 degrees of freedom (heavy tails, as trained weights have), per type and, weighted by
the number of weights of each type at full size, per recipe. With a checkpoint: it is converted by each recipe, and
perplexity of the text is exp(mean -ln p); KL is the mean of sum p_f16 ln(p_f16 / p), both over every token but the
first ids of each window; "same" is how often both find the same token likeliest; "of q4_0's" is the KL as a share of
q4_0's without a matrix, with an interval of 95 % by a paired bootstrap over batches of 32 tokens. Prefill and decode at
full size are not measured here (glm-edge bench), and a small model's KL orders recipes, but is not ChatGLM2-6B's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[2]))

from glm_edge.convert.convert import convert
from glm_edge.convert.quantize.recipe import VECTORS, LayerRule, Recipe, every, first_part
from glm_edge.convert.quantize.rounding import quantize_rows
from glm_edge.convert.recipes import RECIPES
from glm_edge.llama.context import Batch
from glm_edge.llama.model import Model
from glm_edge.model.checks import prefix_ids
from glm_edge.model.ggml import block_size, dequantize
from glm_edge.model.gguf import read_gguf
from glm_edge.tools.perplexity import BATCH, open_context, split
from support.checkpoints.full_size_bytes import FULL, HEAD, full_size

EDGE = RECIPES["edge"]
# Not to be asked for by name: what `edge` was or will be chosen from.
CANDIDATES = {
    recipe.name: recipe
    for recipe in (
        replace(EDGE, name="edge, scales of ggml", searched=False),
        replace(EDGE, name="q4_k, down searched", matrices="q4_k", fallback=RECIPES["edge-arm"].fallback),
        replace(RECIPES["edge-arm"], name="q4_k, down of ggml", special={"output": (LayerRule("q6_k"),)}),
        replace(RECIPES["q4_0"], name="q4_0, searched", searched=True),
    )
}


def alone(type_name: str) -> Iterator[Recipe]:
    """F16, but the type in one kind of tensors, in all layers and in each third of them."""
    parts = {"": every, ", first third": first_part(3), ", middle": middle_third, ", last third": last_third}
    for kind, (_, _, layers) in FULL.items():
        for part, where in parts.items() if layers > 1 else [("", every)]:
            special = {kind: (LayerRule(type_name, where),)}
            if kind not in VECTORS:
                yield replace(EDGE, name=f"{type_name} {kind}{part}", matrices="f16", special=special)


def middle_third(layer: int, layers: int) -> bool:
    return layers // 3 <= layer < layers - layers // 3


def last_third(layer: int, layers: int) -> bool:
    return layer >= layers - layers // 3


@dataclass
class Quality:
    """Of a file, against the F16 file of the same checkpoint."""

    file_bytes: int
    perplexity: float
    error: float  # standard error of the perplexity
    kl: float  # nats a token
    kl_error: float
    same: float  # share of tokens
    tokens: int
    share: tuple[float, float, float]  # of q4_0's KL, and its interval


Sums = NDArray[np.float64]  # of the KL of each batch, and its tokens: (batches, 2)


def share_of(mine: Sums, other: Sums) -> tuple[float, float, float]:
    """The first KL over the second of the same batches, and the interval of 95 %: both are drawn together."""
    drawn = np.random.default_rng(0).integers(0, len(mine), (2000, len(mine)))  # the same at every call
    low, high = np.percentile(mine[drawn, 0].sum(axis=1) / other[drawn, 0].sum(axis=1), (2.5, 97.5))
    return float(mine[:, 0].sum() / other[:, 0].sum()), float(low), float(high)


@cache
def weight_error(type_name: str, searched: bool = False) -> float:
    """Relative root mean square error on heavy-tailed rows, the mean square over both row lengths."""
    draw = np.random.default_rng(11)
    error = weights = 0.0
    for columns in (4096, 13696):
        if columns % block_size(type_name):
            continue
        rows = draw.standard_t(5, (48, columns)).astype(np.float32) * np.float32(0.02)
        found = dequantize(type_name, quantize_rows(type_name, rows, searched=searched), columns)
        error += float(np.square(found.astype(np.float64) - rows).sum())
        weights += float(np.square(rows.astype(np.float64)).sum())
    return math.sqrt(error / weights)


def recipe_error(recipe: Recipe) -> float:
    used = full_size(recipe)[1]
    return math.sqrt(
        sum(weight_error(name, recipe.searched) ** 2 * count for name, count in used.items()) / sum(used.values())
    )


class Runner:
    """A model and a context that gives logits of all tokens of a batch."""

    def __init__(self, path: Path, n_ctx: int, threads: int) -> None:
        self.model = Model(path)
        self.prefix = list(prefix_ids(read_gguf(path)))
        self.context = open_context(self.model, n_ctx, threads)

    def log_probabilities(self, ids: list[int], first: int) -> NDArray[np.float64]:
        """ln p over the vocabulary after each of `ids`, which begin at position `first`: (len(ids), n_vocab)."""
        if first == 0:
            self.context.remove(0)
        batch = Batch(BATCH)
        for position, token in enumerate(ids, first):
            batch.add(token, position, 0, logits=True)
        self.context.decode(batch)
        logits = np.stack([self.context.logits(i) for i in range(len(ids))]).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def close(self) -> None:
        self.context.close()
        self.model.close()


def windows(runner: Runner, text: str, limit: int) -> Iterator[list[int]]:
    """The text as in `glm-edge perplexity`, cut off after `limit` tokens."""
    size = runner.context.n_ctx - len(runner.prefix)
    left = limit
    for part in split(text):
        ids = runner.model.tokenize(part)
        for i in range(0, len(ids), size):
            window = ids[i : i + min(size, left)]
            left -= len(window)
            if window:
                yield window


def quality(
    path: Path, reference: Runner, text: str, limit: int, threads: int, base: Sums | None
) -> tuple[Quality, Sums]:
    """Of the file at `path`; `base` is what this gave for q4_0, if this is not q4_0."""
    runner = Runner(path, reference.context.n_ctx, threads)
    surprises: list[float] = []
    distances: list[float] = []
    batches: list[tuple[float, int]] = []
    same = 0
    start = len(reference.prefix) - 1  # the first position whose next token counts
    for window in windows(reference, text, limit):
        ids = [*reference.prefix, *window]
        for first in range(0, len(ids) - 1, BATCH):
            part = ids[first : min(first + BATCH, len(ids) - 1)]
            p, q = reference.log_probabilities(part, first), runner.log_probabilities(part, first)
            for i in range(max(0, start - first), len(part)):
                surprises.append(-float(q[i, ids[first + i + 1]]))
                distances.append(float((np.exp(p[i]) * (p[i] - q[i])).sum()))
                same += int(p[i].argmax() == q[i].argmax())
            counted = len(part) - max(0, start - first)
            batches.append((math.fsum(distances[-counted:]), counted))
    runner.close()
    sums = np.array(batches)
    n = len(surprises)
    value = math.exp(math.fsum(surprises) / n)
    found = Quality(
        path.stat().st_size,
        value,
        value * float(np.std(surprises)) / math.sqrt(n),
        math.fsum(distances) / n,
        float(np.std(distances)) / math.sqrt(n),
        same / n,
        n,
        share_of(sums, sums if base is None else base),
    )
    return found, sums


def main() -> None:
    everything = {name: one for name, one in {**RECIPES, **CANDIDATES}.items() if not one.needs_importance}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipes", nargs="+", choices=everything, metavar="NAME", default=list(everything))
    parser.add_argument(
        "--alone", nargs="+", default=[], metavar="TYPE", help="how much each kind of tensors loses by it"
    )
    parser.add_argument("--model-checkpoint", type=Path, help="folder to convert by every recipe")
    parser.add_argument("--text", type=Path, help="UTF-8 text for perplexity and KL")
    parser.add_argument("--tokens", type=int, default=1 << 30, help="of the text, at most")
    parser.add_argument("--imatrix", type=Path, help="importance matrix: every recipe is measured without and with it")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    everything |= (ones := {one.name: one for name in options.alone for one in alone(name)})
    options.recipes = [*options.recipes, *ones]
    if (options.model_checkpoint is None) != (options.text is None):
        parser.error("--model-checkpoint and --text go together")
    print(f"{'recipe':<22}{'bytes at full size':>19}{'GiB':>6}{'weights':>9}", end="")
    print(f"{'perplexity':>20}{'KL':>18}{'same':>8}  of q4_0's" if options.text else "")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        reference = None
        if options.text:
            text = options.text.read_text("utf-8")
            half = convert(options.model_checkpoint, Path(folder) / "f16.gguf", type="f16").path
            reference = Runner(half, options.ctx, options.threads)
        names = options.recipes
        if reference is not None:  # q4_0 first, because all others are told as a share of it
            names = ["q4_0", *(name for name in names if name != "q4_0")]
        base = None
        for name, matrix in itertools.product(names, [None, options.imatrix] if options.imatrix else [None]):
            recipe, shown = everything[name], name + (", matrix" if matrix else "")
            size = full_size(recipe)[0] + HEAD
            result: dict[str, object] = {"recipe": shown, "bytes": size, "weight_error": recipe_error(recipe)}
            print(f"{shown:<22}{size:>19,}{size / 2**30:>6.2f}{recipe_error(recipe):>8.2%}", end=" ", flush=True)
            if reference is not None:
                made = Path(folder) / "x.gguf"
                convert(options.model_checkpoint, made, type=recipe, imatrix=matrix, force=True)
                found, sums = quality(made, reference, text, options.tokens, options.threads, base)
                base = sums if base is None else base
                result |= asdict(found)
                print(f"{found.perplexity:>11.4f} ±{found.error:.4f}{found.kl:>10.5f} ±{found.kl_error:.5f}", end="")
                share, low, high = found.share
                print(f"{found.same:>8.2%}   {share:.3f} [{low:.3f}, {high:.3f}]", end="", flush=True)
            print()
            results.append(result)
        if reference is not None:
            reference.close()
    types = {name: weight_error(name) for recipe in everything.values() for name in full_size(recipe)[1]}
    for name, error in sorted(types.items(), key=lambda item: item[1]):
        print(f"{name:<22}{'':>25}{error:>8.2%}")
    print(json.dumps({"machine": platform.machine(), "recipes": results, "types": types}))


if __name__ == "__main__":
    main()
