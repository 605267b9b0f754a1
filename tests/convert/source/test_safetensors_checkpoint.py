"""Checkpoints whose weights are safetensors, one file or shards: the same model as their .bin twins."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.convert import convert, plan
from glm_edge.convert.recipes import RECIPES
from glm_edge.convert.source.checkpoint import open_checkpoint
from glm_edge.errors import InvalidFileError
from glm_edge.model.gguf import read_gguf
from glm_edge.model.keys import HASHES, SOURCES
from support.checkpoints.safetensors_writer import write_safetensors
from support.checkpoints.small_checkpoint import random_weights, write_checkpoint

INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def write_shards(folder: Path, weights: dict[str, NDArray[Any]], n: int, bf16: frozenset[str] = frozenset()) -> None:
    """Write `weights` as `n` shards with their index."""
    names = list(weights)
    step = math.ceil(len(names) / n)
    weight_map = {}
    for i in range(n):
        shard = f"model-{i + 1:05}-of-{n:05}.safetensors"
        part = names[i * step : (i + 1) * step]
        write_safetensors(folder / shard, {name: weights[name] for name in part}, bf16=bf16)
        weight_map |= dict.fromkeys(part, shard)
    total = sum(value.nbytes for value in weights.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small checkpoint of two safetensors shards."""
    folder = write_checkpoint(tmp_path / "model")
    (folder / "pytorch_model.bin").unlink()
    write_shards(folder, random_weights(), 2)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(InvalidFileError) as caught:
        open_checkpoint(folder)
    return str(caught.value)


def parts(checkpoint: Path, file: Path) -> tuple[dict[str, Any], bytes]:
    """(keys but for the names of the sources, all bytes behind the head) of the file made from a checkpoint."""
    layout = plan(open_checkpoint(checkpoint), RECIPES["q4_0"])
    content, metadata = file.read_bytes(), read_gguf(file).metadata
    hashes, sources = str(metadata[HASHES]), str(metadata[SOURCES])
    head = content.replace(hashes.encode(), b"0" * len(hashes), 1)
    assert head.replace(sources.encode(), layout.metadata[SOURCES].value.encode(), 1).startswith(layout.head)
    return {key: value for key, value in layout.metadata.items() if key != SOURCES}, content[len(layout.head) :]


@pytest.mark.parametrize("shards", [0, 3], ids=["one_file", "three_shards"])
def test_the_official_checkpoint_converts_to_the_same_bytes(
    tiny_checkpoint: Path, tiny_q4_0: Path, tmp_path: Path, shards: int
) -> None:
    folder = tmp_path / tiny_checkpoint.name
    folder.mkdir()
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(tiny_checkpoint / name, folder / name)
    tensors = open_checkpoint(tiny_checkpoint).tensors
    # float16 widened by the reader and made narrow again
    weights = {
        name: tensor.read_rows(0, tensor.shape[0] if len(tensor.shape) == 2 else 1)
        .reshape(tensor.shape)
        .astype(np.float16)
        for name, tensor in tensors.items()
    }
    if shards:
        write_shards(folder, weights, shards)
    else:
        write_safetensors(folder / "model.safetensors", weights)
    found = convert(folder, tmp_path / "x.gguf", type="q4_0").path
    assert parts(folder, found) == parts(tiny_checkpoint, tiny_q4_0)


def test_bfloat16_weights_keep_their_values(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "pytorch_model.bin").unlink()
    wide = {name: value.astype(np.float32).view(np.uint32) for name, value in random_weights().items()}
    bits = {name: (value >> 16).astype(np.uint16) for name, value in wide.items()}
    write_shards(folder, bits, 2, frozenset(bits))
    path = convert(folder, tmp_path / "x.gguf", type="f32").path
    data = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    expected = (wide["transformer.output_layer.weight"] & 0xFFFF0000).view(np.float32)
    assert np.array_equal(data["output.weight"], expected)


def test_files_are_the_index_and_the_shards(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    assert [file.path.name for file in checkpoint.files] == [INDEX, FIRST, SECOND, "tokenizer.model", "config.json"]
    assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {
        name: value.shape for name, value in random_weights().items()
    }


def test_where_both_formats_are_there_safetensors_are_read(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")
    assert [file.path.name for file in open_checkpoint(folder).files] == [
        INDEX,
        FIRST,
        SECOND,
        "tokenizer.model",
        "config.json",
    ]


def test_two_sets_of_one_format_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    assert f"holds {INDEX} and model.safetensors; remove the one" in refused(folder)


@pytest.mark.case("M16")
def test_all_problems_of_shards_are_in_one_message(folder: Path) -> None:
    weights = random_weights()
    names = list(weights)
    write_safetensors(folder / SECOND, {name: weights[name] for name in (names[0], names[-1])})
    shutil.copyfile(folder / FIRST, folder / "model-00009-of-00009.safetensors")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["more"] = "model-00003-of-00003.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    message = refused(folder)
    for problem in (
        f"model-00009-of-00009.safetensors is a shard that {INDEX} does not list",
        f"{names[0]} is in {FIRST} and in {SECOND}",
        f"{names[-2]} is not in {SECOND}, where {INDEX} has it",
        "model-00003-of-00003.safetensors: is missing",
    ):
        assert problem in message


@pytest.mark.case("M16")
def test_integers_and_wrong_shapes_are_listed(folder: Path, tmp_path: Path) -> None:
    weights = random_weights()
    names = [name for name, value in weights.items() if value.ndim == 2]
    weights[names[0]] = np.ones(weights[names[0]].shape, np.int64)
    weights[names[1]] = weights[names[1]].T
    write_shards(folder, weights, 2)
    with pytest.raises(InvalidFileError) as caught:
        convert(folder, tmp_path / "x.gguf")
    assert f"2 problems: {names[0]} holds i64 where weights are f32, f16 or bf16; {names[1]} has shape " in str(
        caught.value
    )


@pytest.mark.case("M17")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_a_weight_that_is_no_number_is_named(folder: Path, tmp_path: Path, bad: float) -> None:
    weights = random_weights()
    weights["transformer.output_layer.weight"][5, 7] = bad
    write_shards(folder, weights, 2)
    with pytest.raises(InvalidFileError) as caught:
        convert(folder, tmp_path / "x.gguf")
    assert f"transformer.output_layer.weight[5, 7] is {bad:g}, not a finite number" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_cut_shard_is_named(folder: Path) -> None:
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-1])
    assert f"{SECOND}: is cut short" in refused(folder)
