"""The shard writer of these tests against files that the real torch wrote."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from support.checkpoints.torch_writer import Tensor, write_shard


def test_rewriting_a_shard_that_torch_wrote_gives_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    source = reference / "tiny" / "pytorch_model-00002-of-00003.bin"
    shapes = {  # the tensors of that shard, in its order, all float16
        "0.post_attention_layernorm.weight": (64,),
        "0.mlp.dense_h_to_4h.weight": (448, 64),
        "0.mlp.dense_4h_to_h.weight": (64, 224),
        "1.input_layernorm.weight": (64,),
        "1.self_attention.query_key_value.weight": (128, 64),
        "1.self_attention.query_key_value.bias": (128,),
    }
    with zipfile.ZipFile(source) as archive:
        content = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    copy = tmp_path / source.name
    write_shard(
        copy,
        [
            Tensor(f"transformer.encoder.layers.{name}", shape, "f16", [content[f"data/{key}"]])
            for key, (name, shape) in enumerate(shapes.items())
        ],
        serialization_id=content[".data/serialization_id"],
    )
    assert copy.read_bytes() == source.read_bytes()


def test_blocks_are_taken_one_by_one(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    write_shard(tmp_path / "a.bin", [Tensor("w", (6, 2), "f32", lambda: (rows[i : i + 2] for i in (0, 2, 4)))])
    with zipfile.ZipFile(tmp_path / "a.bin") as archive:
        assert archive.testzip() is None
        assert archive.read("a/data/0") == rows.tobytes()


def test_a_tensor_short_of_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 bytes came for 8"):
        write_shard(tmp_path / "a.bin", [Tensor("w", (2,), "f32", [b"1234"])])
