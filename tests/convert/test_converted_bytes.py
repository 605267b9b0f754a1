"""What is in a converted file: the same bytes whatever the threads, nothing lost, the keys of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.convert import convert
from glm_edge.convert.recipes import RECIPES
from glm_edge.model.checks import check_model
from glm_edge.model.gguf import read_gguf
from support.checkpoints.small_checkpoint import CONFIG, PIECES, random_weights, shapes, write_checkpoint
from support.checkpoints.torch_writer import Tensor, write_shard

# Relative root mean square error, on the heavy-tailed weights of the checkpoint.
ERROR_BOUNDS = {"f32": 0.0, "f16": 0.0, "bf16": 0.003, "q8_0": 0.01, "q6_k": 0.03, "q5_k": 0.05, "q5_1": 0.06}
ERROR_BOUNDS |= {"q5_0": 0.07, "q4_k": 0.1, "iq4_nl": 0.1, "iq4_xs": 0.1, "q4_1": 0.11, "q4_0": 0.13, "q3_k": 0.2}
ERROR_BOUNDS |= {"q2_k": 0.35}
SOME = ["f32", "bf16", "q8_0", "q4_0", "q4_k_m", "edge"]

Tensors = dict[str, tuple[str, NDArray[Any]]]


def tensors_of(path: Path) -> Tensors:
    """Name -> type and data, by the gguf package's reader."""
    reader = gguf.GGUFReader(path)
    return {tensor.name: (tensor.tensor_type.name.lower(), np.array(tensor.data)) for tensor in reader.tensors}


def test_the_output_matrix_of_a_q4_0_file_is_q6_k(small_checkpoint: Path, tmp_path: Path) -> None:
    report = convert(small_checkpoint, tmp_path / "x.gguf", type="q4_0")
    assert report.types["output"] == ("q6_k",)
    assert report.types["ffn_down"] == report.types["embedding"] == ("q4_0",)
    assert report.types["norm"] == report.types["bias"] == ("f32",)


@pytest.mark.case("V12")
@pytest.mark.parametrize("type_name", SOME)
def test_threads_and_repetition_leave_the_bytes_alone(small_checkpoint: Path, tmp_path: Path, type_name: str) -> None:
    files = [
        convert(small_checkpoint, tmp_path / f"{n}.gguf", type=type_name, threads=threads).path
        for n, threads in enumerate([1, 2, 7, 7])
    ]
    assert len({path.read_bytes() for path in files}) == 1


@pytest.mark.case("V13")
@pytest.mark.parametrize("type_name", [name for name, recipe in RECIPES.items() if not recipe.needs_importance])
def test_every_weight_survives_within_its_types_error(small_checkpoint: Path, tmp_path: Path, type_name: str) -> None:
    report = convert(small_checkpoint, tmp_path / "x.gguf", type=type_name)
    reader = gguf.GGUFReader(report.path)
    weights = random_weights()
    names = dict(zip([t.name for t in reader.tensors], list(shapes())[:-1], strict=True))  # both in the model's order
    assert len(names) == len(weights) - 1 == report.tensors  # all but the rotary frequencies
    for tensor in reader.tensors:
        source = weights[names[tensor.name]].astype(np.float64)
        found = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(source.shape)
        error = float(np.sqrt(np.square(found - source).mean() / np.square(source).mean()))
        assert error <= ERROR_BOUNDS[tensor.tensor_type.name.lower()], tensor.name
    for kind, types in report.types.items():
        assert report.errors[kind] <= max(ERROR_BOUNDS[type_name] for type_name in types)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_f32_and_bf16_checkpoints_keep_their_values(tmp_path: Path, dtype: str) -> None:
    weights = {name: value.astype(np.float32) for name, value in random_weights().items()}
    if dtype == "bf16":  # what is left after the lower half of each float32 has gone
        weights = {name: (value.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, value in weights.items()}
    checkpoint = write_checkpoint(tmp_path / "model")
    stored = [
        Tensor(name, value.shape, dtype, [value.view(np.uint16)[..., 1::2].copy() if dtype == "bf16" else value])
        for name, value in weights.items()
    ]
    write_shard(checkpoint / "pytorch_model.bin", stored)
    found = tensors_of(convert(checkpoint, tmp_path / "x.gguf", type="f32").path)
    assert np.array_equal(found["output.weight"][1], weights["transformer.output_layer.weight"])
    assert np.array_equal(found["blk.1.attn_qkv.bias"][1], weights[f"{LAYER_1}.self_attention.query_key_value.bias"])


LAYER_1 = "transformer.encoder.layers.1"


@pytest.mark.parametrize("type_name", SOME)
def test_the_runtime_takes_the_file(small_checkpoint: Path, tmp_path: Path, type_name: str) -> None:
    check_model(read_gguf(convert(small_checkpoint, tmp_path / "x.gguf", type=type_name).path))


def test_keys_say_what_the_model_is(small_checkpoint: Path, tmp_path: Path) -> None:
    path = convert(small_checkpoint, tmp_path / "x.gguf", type="q4_0").path
    keys = {name: item.contents() for name, item in gguf.GGUFReader(path).fields.items()}
    expected = {
        "general.architecture": "chatglm",
        "general.name": "chatglm2-small",
        "general.file_type": 2,
        "chatglm.context_length": 1024,
        "chatglm.embedding_length": 256,
        "chatglm.feed_forward_length": 672,
        "chatglm.block_count": 2,
        "chatglm.attention.head_count": 4,
        "chatglm.attention.head_count_kv": 2,
        "chatglm.rope.dimension_count": 32,
        "chatglm.rope.freq_base": 10000.0,
        "chatglm.vocab_size": 512,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_space_prefix": True,
        "glm_edge.prefix_ids": [len(PIECES) + 1, len(PIECES) + 3],
    }
    assert {key: keys[key] for key in expected} == expected
    assert keys["chatglm.attention.layer_norm_rms_epsilon"] == np.float32(1e-5)
    assert len(keys["tokenizer.ggml.tokens"]) == 512
    golden = json.loads(keys["glm_edge.golden"])
    assert len(golden) >= 24
    assert ["", []] in golden
    assert not [key for key in keys if "date" in key or "time" in key]


def test_a_32k_model_divides_positions_by_its_ratio(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model", config=CONFIG | {"rope_ratio": 4})
    path = convert(checkpoint, tmp_path / "x.gguf", type="f16").path
    keys = {name: item.contents() for name, item in gguf.GGUFReader(path).fields.items()}
    assert keys["chatglm.rope.freq_base"] == 10000.0
    assert (keys["chatglm.rope.scaling.type"], keys["chatglm.rope.scaling.factor"]) == ("linear", 4.0)
