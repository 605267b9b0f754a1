"""The result names every file that it was made from, with its SHA-256, whatever the format and the threads."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from glm_edge.convert.convert import convert
from glm_edge.convert.metadata import SOURCES
from safetensorsfile import write_safetensors
from small_checkpoint import random_weights, write_checkpoint
from wide_checkpoint import write_wide

from glm_edge.errors import IntegrityError
from glm_edge.gguf import read_gguf


def recorded(path: Path) -> list[list[str | int]]:
    content = json.loads(str(read_gguf(path).metadata[SOURCES]))
    assert isinstance(content, list)
    return content


def hashed(*files: Path) -> list[list[str | int]]:
    return [[f.name, f.stat().st_size, hashlib.sha256(f.read_bytes()).hexdigest()] for f in sorted(files)]


@pytest.mark.parametrize("threads", [1, 3])
def test_shards_index_config_and_tokenizer_are_named(tmp_path: Path, threads: int) -> None:
    folder = write_wide(tmp_path / "model")
    out = convert(folder, tmp_path / "x.gguf", threads=threads).path
    assert recorded(out) == hashed(*folder.iterdir())
    assert len(recorded(out)) == 8


def test_one_file_of_safetensors_and_a_lora_are_named(tmp_path: Path) -> None:
    folder, lora = write_checkpoint(tmp_path / "model"), tmp_path / "lora"
    (folder / "pytorch_model.bin").unlink()
    write_safetensors(folder / "model.safetensors", random_weights())
    lora.mkdir()
    module = "transformer.encoder.layers.0.self_attention.dense"
    draw = np.random.default_rng(1)
    weights = {
        f"base_model.model.{module}.lora_{part}.weight": draw.normal(0, 0.1, shape).astype(np.float32)
        for part, shape in (("A", (4, 256)), ("B", (256, 4)))
    }
    write_safetensors(lora / "adapter_model.safetensors", weights)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["layers.0.self_attention.dense"]}
    (lora / "adapter_config.json").write_text(json.dumps(config))
    out = convert(folder, tmp_path / "x.gguf", lora=lora).path
    assert recorded(out) == sorted(hashed(*folder.iterdir(), *lora.iterdir()))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "pytorch_model.bin"])
def test_v11_a_source_that_changes_meanwhile_is_exit_4(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "model")
    changed = False

    def change(done: int, total: int) -> None:
        nonlocal changed
        if not changed:
            os.utime(folder / name, (1, 1))
            changed = True

    with pytest.raises(IntegrityError, match=f"{name}: changed while it was read"):
        convert(folder, tmp_path / "x.gguf", progress=change)
    assert list(tmp_path.iterdir()) == [folder]
