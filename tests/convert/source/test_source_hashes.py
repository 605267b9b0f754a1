"""The result names every source file with its SHA-256, in every format and with any number of threads."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest

from glm_edge.convert.convert import convert
from glm_edge.convert.source.checkpoint import open_checkpoint
from glm_edge.convert.source.files import StableFile
from glm_edge.convert.source.sources import FileHash
from glm_edge.errors import IntegrityError
from glm_edge.model.gguf import read_gguf
from glm_edge.model.keys import SOURCES
from support.checkpoints.safetensors_writer import write_safetensors
from support.checkpoints.small_checkpoint import random_weights, write_checkpoint
from support.checkpoints.wide_checkpoint import write_wide


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
    folder, lora = checkpoint_and_lora(tmp_path)
    out = convert(folder, tmp_path / "x.gguf", lora=lora).path
    assert recorded(out) == sorted(hashed(*folder.iterdir(), *lora.iterdir()))


def checkpoint_and_lora(tmp_path: Path) -> tuple[Path, Path]:
    """Weights of float32 in safetensors, which need no conversion, and a LoRA for one of them."""
    folder, lora = write_checkpoint(tmp_path / "model"), tmp_path / "lora"
    (folder / "pytorch_model.bin").unlink()
    write_safetensors(folder / "model.safetensors", {k: v.astype(np.float32) for k, v in random_weights().items()})
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
    return folder, lora


@pytest.mark.case("V11")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "pytorch_model.bin"])
def test_a_source_that_changed_after_it_was_opened_is_not_taken_for_it(tmp_path: Path, name: str) -> None:
    source = open_checkpoint(write_checkpoint(tmp_path / "model"))
    with (tmp_path / "model" / name).open("ab") as file:
        file.write(b" ")
    (changed,) = (file for file in source.files if file.path.name == name)
    with pytest.raises(IntegrityError, match=f"{name}: changed while it was read"):
        FileHash(changed).finish()


@pytest.mark.parametrize("seed", range(5))
def test_blocks_twice_overlapping_and_with_gaps_give_the_hash_of_the_file(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    (tmp_path / "x").write_bytes(draw.randbytes(1 << 20))
    file = StableFile.find(tmp_path / "x")
    running = FileHash(file)
    for start in sorted([*range(0, file.size, 20_000), *(draw.randrange(file.size) for _ in range(20))]):
        running.add(start, file.read(start, min(draw.choice((10, 20_000, 30_000)), file.size - start)))
    assert running.finish() == hashlib.sha256((tmp_path / "x").read_bytes()).hexdigest()
