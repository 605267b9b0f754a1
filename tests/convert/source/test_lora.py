"""A LoRA merged at conversion: the sum that float64 gives, rounded once; and every LoRA that has to be refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.convert import convert
from glm_edge.convert.source.checkpoint import open_checkpoint
from glm_edge.convert.source.lora import merge_lora
from glm_edge.errors import GlmEdgeError, InvalidFileError, StorageError
from support.checkpoints.derived_checkpoints import CONFIG, lora_weights, write_lora
from support.checkpoints.small_checkpoint import random_weights, shapes
from support.checkpoints.torch_writer import Tensor, write_shard

PREFIX = "base_model.model."
LAYER = "transformer.encoder.layers.1"
QKV = f"{LAYER}.self_attention.query_key_value"
EMBEDDING = "transformer.embedding.word_embeddings"
Weights = dict[str, NDArray[Any]]


def expected(weights: Weights, scaling: float, base: Weights | None = None) -> Weights:
    """Every tensor of the small checkpoint after the merge, computed in float64 and rounded."""
    found = {}
    for name, value in (base or random_weights()).items():
        module = f"{PREFIX}{name.removesuffix('.weight')}"
        total = value.astype(np.float64)
        if f"{module}.lora_A.weight" in weights:
            a, b = (weights[f"{module}.lora_{part}.weight"].astype(np.float64) for part in "AB")
            total = total + scaling * (b @ a)
        found[name] = total.astype(np.float32)
    return found


def merged(checkpoint: Path, lora: Path) -> Weights:
    """Every tensor as the conversion reads it."""
    tensors = merge_lora(open_checkpoint(checkpoint), lora).tensors
    return {
        name: tensor.read_rows(0, tensor.shape[0] if len(tensor.shape) == 2 else 1) for name, tensor in tensors.items()
    }


def all_equal(found: Weights, wanted: Weights) -> bool:
    """Equal but for the last bit: float64 sums in another order may round to the neighbour."""
    assert found.keys() == wanted.keys()
    return all((np.abs(found[name] - value) <= np.spacing(np.abs(value))).all() for name, value in wanted.items())


@pytest.mark.parametrize("torch", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize(
    ("changes", "scaling"),
    [({}, 8.0), ({"use_rslora": True}, 16.0), ({"lora_alpha": 0.5}, 0.125), ({"fan_in_fan_out": True}, 8.0)],
    ids=["plain", "rslora", "alpha", "fan_in_fan_out"],
)
def test_the_merge_equals_that_of_float64(
    small_checkpoint: Path, tmp_path: Path, torch: bool, changes: dict[str, Any], scaling: float
) -> None:
    weights = lora_weights()
    lora = write_lora(tmp_path / "lora", weights, CONFIG | changes, torch=torch)
    found = merged(small_checkpoint, lora)
    assert all_equal(found, expected(weights, scaling))
    assert not all_equal(found, expected(weights, 0))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_a_lora_of_halves_is_widened_exactly(small_checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    weights = lora_weights(dtype=np.float16)
    lora = write_lora(tmp_path / "lora", weights, torch=True)
    if dtype == "bf16":
        bits = {name: value.astype(np.float32).view(np.uint32) & 0xFFFF0000 for name, value in weights.items()}
        stored = [Tensor(name, value.shape, "bf16", [(value >> 16).astype(np.uint16)]) for name, value in bits.items()]
        write_shard(lora / "adapter_model.bin", stored)
        weights = {name: value.view(np.float32) for name, value in bits.items()}
    found = merged(small_checkpoint, lora)
    assert all_equal(found, expected(weights, 8.0))


@pytest.mark.parametrize("rank", [1, 64])
@pytest.mark.parametrize("targets", [["query_key_value"], ["dense", "output_layer"]], ids="+".join)
def test_ranks_and_modules(small_checkpoint: Path, tmp_path: Path, rank: int, targets: list[str]) -> None:
    weights = lora_weights(targets, rank)
    config = CONFIG | {"target_modules": targets, "r": rank}
    lora = write_lora(tmp_path / "lora", weights, config)
    found = merged(small_checkpoint, lora)
    assert all_equal(found, expected(weights, 32 / rank))


def test_rows_do_not_depend_on_how_many_are_read(small_checkpoint: Path, tmp_path: Path) -> None:
    merged = merge_lora(open_checkpoint(small_checkpoint), write_lora(tmp_path / "lora", lora_weights()))
    tensor = merged.tensors[f"{QKV}.weight"]
    whole = tensor.read_rows(0, 512)
    for start, stop in ((0, 1), (3, 300), (511, 512)):
        assert np.array_equal(tensor.read_rows(start, stop), whole[start:stop])


def test_a_lora_of_some_layers_and_of_a_pattern(small_checkpoint: Path, tmp_path: Path) -> None:
    weights = {name: value for name, value in lora_weights(["query_key_value"]).items() if "layers.1" in name}
    for n, config in enumerate(({"layers_to_transform": [1]}, {"target_modules": ".*layers.1.*value"})):
        lora = write_lora(tmp_path / f"lora{n}", weights, CONFIG | config)
        found = merged(small_checkpoint, lora)
        assert all_equal(found, expected(weights, 8.0))


def test_the_file_holds_the_merge_and_names_its_sources(small_checkpoint: Path, tmp_path: Path) -> None:
    weights = lora_weights()
    lora = write_lora(tmp_path / "lora", weights)
    reader = gguf.GGUFReader(convert(small_checkpoint, tmp_path / "x.gguf", type="f32", lora=lora).path)
    found = {name: tensor.data for name, tensor in zip(shapes(), reader.tensors, strict=False)}  # in the model's order
    wanted = expected(weights, 8.0)
    assert all_equal(found, {name: wanted[name] for name in found})
    names = [name for name, *_ in json.loads(reader.fields["glm_edge.sources"].contents())]
    assert {"adapter_config.json", "adapter_model.safetensors", "pytorch_model.bin"} <= set(names)


def refused(checkpoint: Path, lora: Path, kind: type[GlmEdgeError] = InvalidFileError) -> str:
    with pytest.raises(kind) as caught:
        merge_lora(open_checkpoint(checkpoint), lora)
    message = str(caught.value)
    assert message.isprintable()
    assert str(lora) in message
    return message


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "another_method": ({"peft_type": "IA3"}, "peft_type is 'IA3'; only LORA can be merged"),
    "no_method": ({"peft_type": None}, "peft_type is None"),
    "all_biases": ({"bias": "all"}, "bias is 'all'; only a LoRA that leaves biases alone"),
    "its_biases": ({"bias": "lora_only"}, "bias is 'lora_only'"),
    "dora": ({"use_dora": True}, "use_dora is True, which cannot be merged"),
    "whole_modules": ({"modules_to_save": ["output_layer"]}, "modules_to_save is a list of 1, which cannot be merged"),
    "ranks_by_pattern": ({"rank_pattern": {"dense": 8}}, "rank_pattern is a dict of 1"),
    "alphas_by_pattern": ({"alpha_pattern": {"dense": 8}}, "alpha_pattern is a dict of 1"),
    "lora_bias": ({"lora_bias": True}, "lora_bias is True"),
    "replication": ({"layer_replication": [[0, 1]]}, "layer_replication is a list of 1"),
    "unknown": ({"use_magic": 3}, "use_magic is 3, which cannot be merged"),
    "pissa": ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16', which changes the base"),
    "init_a_list": ({"init_lora_weights": [1]}, "init_lora_weights is a list of 1"),
    "no_rank": ({"r": None}, "r is None, not an integer from 1 to 1024"),
    "rank_0": ({"r": 0}, "r is 0"),
    "rank_true": ({"r": True}, "r is True"),
    "rank_a_fraction": ({"r": 4.0}, "r is 4.0"),
    "rank_huge": ({"r": 10**30}, "r is 1000000"),
    "alpha_text": ({"lora_alpha": "32"}, "lora_alpha is '32', not a number"),
    "alpha_negative": ({"lora_alpha": -1}, "lora_alpha is -1"),
    "alpha_huge": ({"lora_alpha": 10**30}, "lora_alpha is 1000"),
    "rslora_text": ({"use_rslora": "no"}, "use_rslora is 'no' where true or false"),
    "targets_a_number": ({"target_modules": 5}, "target_modules is 5 where names of modules are expected"),
    "targets_of_numbers": ({"target_modules": [5]}, "target_modules is a list of 1 where names"),
    "embeddings": ({"target_modules": ["word_embeddings"]}, "target_modules has word_embeddings, whose LoRA cannot"),
    "other_rank": ({"r": 8}, "lora_A.weight has shape (4, 256) where r and the checkpoint make it (8, 256)"),
    "more_targets": ({"target_modules": ["output_layer"]}, "output_layer.weight is among the target_modules"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_change_the_model_in_other_ways_are_refused(
    small_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    changes, message = SETTINGS[name]
    lora = write_lora(tmp_path / "lora", lora_weights(), CONFIG | changes)
    assert message in refused(small_checkpoint, lora)


A, B = f"{PREFIX}{QKV}.lora_A.weight", f"{PREFIX}{QKV}.lora_B.weight"


def _set(name: str, *shape: int, dtype: Any = np.float32) -> Callable[[Weights], object]:
    return lambda weights: weights.update({name: np.ones(shape, dtype)})


TENSORS: dict[str, tuple[Callable[[Weights], object], str]] = {
    "no_tensors": (lambda weights: weights.clear(), "its weights file has no tensors"),
    "a_alone": (lambda weights: weights.pop(B), f"{A} is there without its lora_B.weight"),
    "b_alone": (lambda weights: weights.pop(A), f"{B} is there without its lora_A.weight"),
    "one_module_missing": (lambda w: (w.pop(A), w.pop(B)), f"{QKV}.weight is among the target_modules and has no LoRA"),
    "transposed": (_set(A, 256, 4), f"{A} has shape (256, 4) where r and the checkpoint make it (4, 256)"),
    "short": (_set(B, 511, 4), f"{B} has shape (511, 4) where r and the checkpoint make it (512, 4)"),
    "flat": (_set(A, 1024), f"{A} has shape (1024,)"),
    "integers": (_set(B, 512, 4, dtype=np.int8), f"{B} holds i8 where weights are"),
    "another_layer": (_set(A.replace("layers.1", "layers.9"), 4, 256), "which the checkpoint does not have"),
    "no_prefix": (_set(A.removeprefix(PREFIX), 4, 256), f"{A.removeprefix(PREFIX)} is not {PREFIX}MODULE.lora_A"),
    "a_bias": (_set(f"{PREFIX}{QKV}.bias", 512), f"{PREFIX}{QKV}.bias is not {PREFIX}MODULE"),
    "dora": (_set(f"{PREFIX}{QKV}.lora_magnitude_vector", 512), "lora_magnitude_vector is not"),
    "embeddings": (_set(f"{PREFIX}{EMBEDDING}.lora_embedding_A", 4, 512), "a LoRA of the word embeddings cannot"),
    "embeddings_as_matrix": (_set(f"{PREFIX}{EMBEDDING}.lora_A.weight", 4, 256), "of the word embeddings cannot"),
    "a_norm": (
        lambda w: (_set(f"{PREFIX}{LAYER}.input_layernorm.lora_A.weight", 4, 256)(w),
                   _set(f"{PREFIX}{LAYER}.input_layernorm.lora_B.weight", 256, 4)(w)),
        f"is for {LAYER}.input_layernorm.weight, which is no matrix",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit_are_named(small_checkpoint: Path, tmp_path: Path, name: str) -> None:
    change, message = TENSORS[name]
    weights = lora_weights()
    change(weights)
    assert message in refused(small_checkpoint, write_lora(tmp_path / "lora", weights))


def test_all_that_does_not_fit_is_in_one_message(small_checkpoint: Path, tmp_path: Path) -> None:
    weights = lora_weights() | {"x": np.ones(3, np.float32), A: np.ones((4, 5), np.float32)}
    config = CONFIG | {"bias": "all", "use_dora": True, "lora_alpha": 0}
    assert "5 problems: " in refused(small_checkpoint, write_lora(tmp_path / "lora", weights, config))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(small_checkpoint: Path, tmp_path: Path, name: str) -> None:
    lora = write_lora(tmp_path / "lora", lora_weights())
    (lora / name).unlink()
    assert f"{name}: is missing" in refused(small_checkpoint, lora)


def test_a_missing_folder(small_checkpoint: Path, tmp_path: Path) -> None:
    assert "no such folder" in refused(small_checkpoint, tmp_path / "nowhere", StorageError)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38], ids=str)
def test_a_merge_that_gives_no_number_is_refused_where_it_does(
    small_checkpoint: Path, tmp_path: Path, bad: float
) -> None:
    weights = lora_weights()
    weights[B][5, 2] = bad
    lora = write_lora(tmp_path / "lora", weights)
    with pytest.raises(InvalidFileError) as caught:
        convert(small_checkpoint, tmp_path / "x.gguf", type="f16", lora=lora)
    assert f"{QKV}.weight[5, 0] is " in str(caught.value)
    assert not (tmp_path / "x.gguf").exists()
