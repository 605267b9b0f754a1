"""A P-Tuning v2 checkpoint as the official trainer leaves it: config.json and a pytorch_model.bin of the encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.checkpoints.torch_writer import write_shard

PREFIX = "transformer.prefix_encoder."
Encoder = dict[str, NDArray[Any]]


def random_encoder(config: Mapping[str, Any], tokens: int, *, projected: bool = False, seed: int = 1) -> Encoder:
    """Tensors of a prefix encoder for the model of a config.json, as float32, by their names in it."""
    draw = np.random.default_rng(seed)
    wide = config["num_layers"] * 2 * config["multi_query_group_num"] * config["kv_channels"]
    hidden = config["hidden_size"]

    def values(*shape: int, scale: float = 1.0) -> NDArray[Any]:
        return (scale * draw.standard_normal(shape)).astype(np.float32)

    encoder = {"embedding.weight": values(tokens, wide, scale=0.5)}
    if projected:
        encoder |= {
            "trans.0.weight": values(hidden, wide, scale=wide**-0.5),
            "trans.0.bias": values(hidden, scale=0.1),
            "trans.2.weight": values(wide, hidden, scale=2 * hidden**-0.5),
            "trans.2.bias": values(wide, scale=0.1),
        }
    return encoder


def write_tuned(folder: Path, encoder: Encoder, *, prefix: str = PREFIX, **config: Any) -> Path:
    """Write the folder; `config` goes into config.json beside what follows from the encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder / "pytorch_model.bin", {prefix + name: values for name, values in encoder.items()})
    settings = {
        "model_type": "chatglm",
        "pre_seq_len": len(encoder.get("embedding.weight", ())),
        "prefix_projection": "trans.0.weight" in encoder,
    }
    (folder / "config.json").write_text(json.dumps({**settings, **config}), "utf-8")
    return folder
