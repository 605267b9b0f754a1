"""Writes a ChatGLM2 checkpoint with random weights in the official format, in any size, without torch.

    python tests/benchmarks/make_checkpoint.py OUT --full        # ChatGLM2-6B's exact shapes: 7 shards, 12.5 GB
    python tests/benchmarks/make_checkpoint.py OUT --layers 4    # tiny; see --help for every size

What speed, memory and conversion are measured with where the real weights are not at hand. Names, order, shapes and the
split into shards are the real ones (tests/test_make_checkpoint.py compares); what the model says is noise. Rows are
windows into one pool of random numbers, each at another place, because drawing billions of numbers would take minutes:
no two rows of a tensor are equal, but they are not independent. The same options and seed give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from math import gcd, prod
from pathlib import Path
from typing import Any

import numpy as np
from checkpoint_shapes import CONFIG_KEYS, DTYPES, FULL, Sizes, Weight, config, split, weights
from numpy.typing import NDArray
from tqdm import tqdm

PROJECT = Path(__file__).resolve().parents[2]
sys.path.append(str(PROJECT / "tests"))

from support.checkpoints.torch_writer import STORAGES, Tensor, write_shard  # noqa: E402

REFERENCE = Path(os.environ.get("GLM_EDGE_REFERENCE") or PROJECT.parent / "shared" / "reference") / "chatglm2-6b"
MAX_LAYERS = 512
POOL = 1 << 22  # random numbers
BLOCK = 8 << 20  # bytes written at a time


class Noise:
    """Values of a tensor, block by block. `tails` is the degrees of freedom of a Student t; None is a normal."""

    def __init__(self, dtype: str, seed: int, tails: float | None, advance: Callable[[int], object]) -> None:
        self._dtype, self._seed, self._advance = dtype, seed, advance
        random = np.random.default_rng(seed)
        if tails is None:
            self._numbers = random.standard_normal(POOL, np.float32)
        else:
            self._numbers = random.standard_t(tails, POOL).astype(np.float32) / np.float32(np.sqrt(tails / (tails - 2)))
        self._pool = cache(self._scaled)

    def tensor(self, number: int, weight: Weight) -> Tensor:
        """The tensor to write; `number` is its place in the checkpoint, so that each gets other values."""
        make = self._matrix if weight.kind == "matrix" else self._vector
        return Tensor(weight.name, weight.shape, self._dtype, lambda: make(number, weight))

    def _scaled(self, columns: int) -> NDArray[Any]:
        """The pool for rows of this length: a unit vector times such a matrix keeps its size, about 0.02 at 4096."""
        return self._encoded(self._numbers * np.float32(1.3 / np.sqrt(columns)))

    def _encoded(self, values: NDArray[np.float32]) -> NDArray[Any]:
        if self._dtype != "bf16":
            return values.astype(DTYPES[self._dtype])
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # nearest, ties to even

    def _matrix(self, number: int, weight: Weight) -> Iterator[NDArray[Any]]:
        rows, columns = weight.shape
        windows = np.lib.stride_tricks.sliding_window_view(self._pool(columns), columns)
        random = np.random.default_rng((self._seed, number))
        start, step = (int(n) for n in random.integers(1, len(windows), 2))
        while gcd(step, len(windows)) > 1:  # else the windows would repeat before all were used
            step += 1
        per_block = max(1, BLOCK // (columns * windows.itemsize))
        for first in range(0, rows, per_block):
            capacity = (start + step * np.arange(first, min(rows, first + per_block))) % len(windows)
            block = windows[capacity]
            yield block
            self._advance(block.nbytes)

    def _vector(self, number: int, weight: Weight) -> Iterator[NDArray[Any]]:
        (n,) = weight.shape
        random = np.random.default_rng((self._seed, number))
        if weight.kind == "inv_freq":  # of a rotation over half a head: 2 n channels in n pairs
            values = (10000.0 ** -(np.arange(n) / n)).astype(np.float32)
        else:
            values = random.standard_normal(n, np.float32) * np.float32(0.1) + (weight.kind == "norm")
        block = self._encoded(values.astype(np.float32))
        yield block
        self._advance(block.nbytes)


def make_checkpoint(
    out: Path,
    sizes: Sizes,
    *,
    dtype: str = "f16",
    n_shards: int | None = None,
    seed: int = 0,
    tails: float | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Write the checkpoint into the new or empty folder `out`; `tokenizer` is copied, and its tokenizer_config.json."""
    itemsize = STORAGES[dtype][1]
    found = weights(sizes)
    numbers = {weight.name: number for number, weight in enumerate(found)}
    shards = split(found, itemsize, n_shards)
    total = sum(prod(weight.shape) for weight in found) * itemsize
    out.mkdir(parents=True, exist_ok=True)
    names = [f"pytorch_model-{i:05}-of-{len(shards):05}.bin" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["pytorch_model.bin"]
    with tqdm(total=total, unit="B", unit_scale=True, desc=out.name) as bar:
        noise = Noise(dtype, seed, tails, bar.update)
        for name, shard in zip(names, shards, strict=True):
            write_shard(out / name, [noise.tensor(numbers[weight.name], weight) for weight in shard])
    weight_map = {weight.name: name for name, shard in zip(names, shards, strict=True) for weight in shard}
    if len(shards) > 1:
        write_json(out / "pytorch_model.bin.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json(out / "config.json", config(sizes, dtype))
    if tokenizer is not None:
        shutil.copyfile(tokenizer, out / "tokenizer.model")
        if (beside := tokenizer.with_name("tokenizer_config.json")).is_file():
            shutil.copyfile(beside, out / beside.name)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def parse(arguments: list[str] | None = None) -> tuple[argparse.Namespace, Sizes]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must be new or empty")
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--full", action="store_true", help="the sizes of ChatGLM2-6B (12.5 GB in f16)")
    base.add_argument(
        "--from-reference", type=Path, metavar="DIR", help="the sizes in DIR/config.json, and its tokenizer"
    )
    for name, key in CONFIG_KEYS.items():
        option = f"--{name.replace('_', '-')}"
        default = getattr(Sizes(), name)
        parser.add_argument(
            option, type=int, metavar="N", help=f"{key} in config.json; {default} where nothing is given"
        )
    parser.add_argument("--shards", type=int, metavar="N", help="how many; as transformers splits where not given")
    parser.add_argument("--dtype", choices=DTYPES, default="f16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tails", type=float, metavar="DOF", help="draw from a Student t of DOF > 2, such as 5")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help=f"tokenizer.model to copy ({REFERENCE})")
    options = parser.parse_args(arguments)
    base_sizes = FULL if options.full else Sizes()
    if options.from_reference is not None:
        read = json.loads((options.from_reference / "config.json").read_text("utf-8"))
        base_sizes = Sizes(**{name: read[key] for name, key in CONFIG_KEYS.items()})
        options.tokenizer = options.tokenizer or options.from_reference / "tokenizer.model"
    options.tokenizer = options.tokenizer or REFERENCE / "tokenizer.model"
    given = {name: getattr(options, name) for name in CONFIG_KEYS if getattr(options, name) is not None}
    sizes = Sizes(**{**vars(base_sizes), **given})
    refuse_nonsense(parser, options, sizes)
    return options, sizes


def refuse_nonsense(parser: argparse.ArgumentParser, options: argparse.Namespace, sizes: Sizes) -> None:
    """Exit with 2 and a sentence for options that would fail later or make no model."""
    if min(vars(sizes).values()) < 1:
        parser.error("every size must be at least 1")
    if sizes.layers > MAX_LAYERS:
        parser.error(f"--layers must be at most {MAX_LAYERS}, which is llama.cpp's limit")
    if sizes.heads * sizes.kv_channels != sizes.hidden or sizes.heads % sizes.groups or sizes.kv_channels % 4:
        parser.error("hidden must be heads x kv-channels, heads a multiple of groups, kv-channels a multiple of 4")
    if max(sizes.hidden, sizes.ffn) + max(sizes.vocab, 2 * sizes.ffn, 3 * sizes.hidden) >= POOL:
        parser.error(f"rows and columns must stay below {POOL} together")
    found = weights(sizes)
    if options.shards is not None and not 1 <= options.shards <= len(found):
        parser.error(f"--shards must be 1 to {len(found)}, the number of tensors")
    if options.tails is not None and not options.tails > 2:
        parser.error("--tails must be above 2, else the numbers have no finite variance")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        parser.error(f"{options.out} exists and is not an empty folder")
    if not options.tokenizer.is_file():
        parser.error(f"no tokenizer at {options.tokenizer}; give ChatGLM2-6B's with --tokenizer FILE")
    need = sum(prod(weight.shape) for weight in found) * STORAGES[options.dtype][1]
    parent = next(folder for folder in [options.out.absolute(), *options.out.absolute().parents] if folder.exists())
    free = shutil.disk_usage(parent).free
    if need * 1.01 > free:
        parser.error(f"{need / 1e9:.1f} GB are needed at {parent}, {free / 1e9:.1f} GB are free")


def main() -> None:
    options, sizes = parse()
    make_checkpoint(
        options.out,
        sizes,
        dtype=options.dtype,
        n_shards=options.shards,
        seed=options.seed,
        tails=options.tails,
        tokenizer=options.tokenizer,
    )


if __name__ == "__main__":
    main()
