"""An importance matrix for a small checkpoint, in llama.cpp's GGUF format: random, with a wide range and some zeros."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter


def sums_of(config: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The sums of squares of every matrix in the layers, by its name."""
    draw = np.random.default_rng(5)
    hidden, ffn = config["hidden_size"], config["ffn_hidden_size"]
    columns = {"attn_qkv": hidden, "attn_output": hidden, "ffn_up": hidden, "ffn_down": ffn}
    found = {}
    for layer in range(config["num_layers"]):
        for kind, count in columns.items():
            sums = np.exp(2 * draw.standard_normal(count)).astype(np.float32)
            sums[:3] = 0
            found[f"blk.{layer}.{kind}.weight"] = 512 * sums
    return found


def write_importance(path: Path, config: Mapping[str, Any], count: float = 512.0, **replaced: Any) -> Path:
    """Write one. `replaced` has sums by name, with `__` in place of a dot; None leaves the matrix out."""
    sums = sums_of(config) | {name.replace("__", "."): value for name, value in replaced.items()}
    writer = GGUFWriter(path, "imatrix")
    writer.kv_data[0].clear()  # llama.cpp's files name no architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text.txt"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in sums.items():
        if values is not None:
            writer.add_tensor(f"{name}.in_sum2", np.asarray(values, np.float32)[None])
            writer.add_tensor(f"{name}.counts", np.full((1, 1), count, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
