"""A checkpoint of five shards and 12 MB: large enough that a hundredth of it holds index, tokenizer and journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from support.checkpoints.small_checkpoint import CONFIG, random_weights, write_checkpoint
from support.checkpoints.torch_writer import write_shard

WIDE = CONFIG | {"padded_vocab_size": 1024, "num_layers": 8}
N_SHARDS = 5


def shard(n: int) -> str:
    """The name of shard `n`, from 1 on."""
    return f"pytorch_model-{n:05}-of-{N_SHARDS:05}.bin"


def write_wide(folder: Path) -> Path:
    """Write it into a new folder and return the folder."""
    weights = random_weights(WIDE)
    write_checkpoint(folder, config=WIDE, weights={})
    (folder / "pytorch_model.bin").unlink()
    total, before = sum(value.nbytes for value in weights.values()), 0
    shards: dict[str, dict[str, NDArray[Any]]] = {shard(n): {} for n in range(1, N_SHARDS + 1)}
    for name, value in weights.items():
        shards[shard(1 + before * N_SHARDS // total)][name] = value
        before += value.nbytes
    for name, part in shards.items():
        write_shard(folder / name, part)
    weight_map = {name: place for place, part in shards.items() for name in part}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder
