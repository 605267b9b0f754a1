"""Types of llama.cpp byte by byte against `llama_model_quantize`; our own recipes; the sizes that the help names."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.convert import convert
from glm_edge.convert.quantize.recipe import Site
from glm_edge.convert.recipes import ALIASES, RECIPES
from glm_edge.convert.source.importance import read_importance
from glm_edge.model.ggml import block_size
from support.checkpoints.full_size_bytes import FULL, HEAD, full_size
from support.checkpoints.importance import write_importance
from support.checkpoints.small_checkpoint import CONFIG, write_checkpoint

# Rows of 256 and 672 as in the 6B: all blocks divide the first, those of 256 not the second. Four heads share keys, as
# llama.cpp's rules ask in places.
DEEP = CONFIG | {"num_layers": 8, "multi_query_group_num": 1, "padded_vocab_size": 384}
# Enough layers for a rule of the first sixteenth.
DEEPER = DEEP | {"num_layers": 16, "ffn_hidden_size": 32}
# Rows of 64 and 224: whole blocks of 32, none of 256.
SHORT = CONFIG | {"hidden_size": 64, "kv_channels": 16, "ffn_hidden_size": 224}
# Rows of 80 and 208 weights: no quantized type divides the first, none the second.
ODD = CONFIG | {"hidden_size": 80, "kv_channels": 20, "ffn_hidden_size": 208}
# 1.5 million weights in as many layers.
NARROW = DEEP | {"ffn_hidden_size": 32, "padded_vocab_size": 384}
CONFIGS = {
    "narrow": NARROW,
    "two_share": CONFIG,
    "deep": DEEP,
    "deeper": DEEPER,
    "blocks_of_32": SHORT,
    "no_blocks": ODD,
}

THEIRS = [name for name in RECIPES if not name.startswith("edge") and name != "f32"]
# With an importance matrix, where it changes a rule. The types of two bits take seconds on larger models.
CALIBRATED = [("deep", name) for name in ("q4_0", "q5_0", "q4_k_m", "q3_k_m", "q2_k_s")]
CALIBRATED += [("narrow", name) for name in ("iq4_xs", "iq3_m", "iq3_xs", "iq3_xxs", "iq2_s", "iq2_xxs")]
THEIRS = [name for name in THEIRS if not RECIPES[name].needs_importance]
CASES = [("deep", name) for name in THEIRS]
CASES += [(config, name) for config in ("two_share", "blocks_of_32", "no_blocks") for name in ("q2_k", "q4_0", "q8_0")]
CASES += [("two_share", "iq4_xs"), ("blocks_of_32", "q4_k_m"), ("blocks_of_32", "iq4_xs"), ("no_blocks", "q4_k_m")]
CASES += [("deeper", "q3_k_m"), ("deeper", "q4_k_m")]

Tensors = dict[str, tuple[str, NDArray[Any]]]


def tensors_of(path: Path) -> Tensors:
    """Name -> type and data, by the gguf package's reader."""
    reader = gguf.GGUFReader(path)
    return {tensor.name: (tensor.tensor_type.name.lower(), np.array(tensor.data)) for tensor in reader.tensors}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """A checkpoint by the name of its configuration, and its f16 file; made once."""
    made: dict[str, tuple[Path, Path]] = {}

    def prepare(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            checkpoint = write_checkpoint(folder / "model", config=CONFIGS[name])
            made[name] = checkpoint, convert(checkpoint, folder / "half.gguf", type="f16").path
        return made[name]

    return prepare


def quantize_by_llama_cpp(source: Path, out: Path, file_type: int, imatrix: Path | None = None) -> None:
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = 2
    if imatrix is not None:
        columns = read_importance(imatrix).columns
        pointer = ctypes.POINTER(ctypes.c_float)
        entries = [(name.encode(), mean.ctypes.data_as(pointer), mean.size) for name, mean in columns.items()]
        data = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))(*entries)  # ends with an empty one
        parameters.imatrix = data
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters)) == 0


@pytest.mark.parametrize(("config", "type_name"), CASES, ids=["-".join(case) for case in CASES])
def test_tensors_equal_llama_cpps_own_quantization_of_our_f16_file(
    tmp_path: Path, config: str, type_name: str, prepared: Callable[[str], tuple[Path, Path]]
) -> None:
    checkpoint, half = prepared(config)
    ours = convert(checkpoint, tmp_path / "ours.gguf", type=type_name).path
    quantize_by_llama_cpp(half, tmp_path / "theirs.gguf", RECIPES[type_name].file_type)
    found, expected = tensors_of(ours), tensors_of(tmp_path / "theirs.gguf")
    assert {name: kind for name, (kind, _) in found.items()} == {name: kind for name, (kind, _) in expected.items()}
    assert [name for name, (_, data) in found.items() if data.tobytes() != expected[name][1].tobytes()] == []


@pytest.mark.parametrize(("config", "type_name"), CALIBRATED, ids=["-".join(case) for case in CALIBRATED])
def test_with_an_importance_matrix_too(
    tmp_path: Path, config: str, type_name: str, prepared: Callable[[str], tuple[Path, Path]]
) -> None:
    checkpoint, half = prepared(config)
    matrix = write_importance(tmp_path / "i.gguf", CONFIGS[config])
    ours = convert(checkpoint, tmp_path / "ours.gguf", type=type_name, imatrix=matrix).path
    quantize_by_llama_cpp(half, tmp_path / "theirs.gguf", RECIPES[type_name].file_type, matrix)
    found, expected = tensors_of(ours), tensors_of(tmp_path / "theirs.gguf")
    assert {name: kind for name, (kind, _) in found.items()} == {name: kind for name, (kind, _) in expected.items()}
    assert [name for name, (_, data) in found.items() if data.tobytes() != expected[name][1].tobytes()] == []


@pytest.mark.parametrize("alias", ALIASES)
def test_a_short_name_means_the_medium_mix(small_checkpoint: Path, tmp_path: Path, alias: str) -> None:
    assert convert(small_checkpoint, tmp_path / "x.gguf", type=alias).recipe == f"{alias}_m"


@pytest.mark.parametrize("name", RECIPES)
def test_the_help_names_the_size_at_full_size(name: str) -> None:
    assert abs((full_size(RECIPES[name])[0] + HEAD) / 1e9 - RECIPES[name].gigabytes) <= 0.006


def test_edge_is_at_most_0_6_percent_larger_than_q4_0_and_uses_what_x86_repacks() -> None:
    size, weights = full_size(RECIPES["edge"])
    assert 0.999 < size / full_size(RECIPES["q4_0"])[0] <= 1.006
    vocabulary = 2 * 65024 * 4096  # embedding and output
    assert weights["iq4_nl"] > 0.97 * (sum(weights.values()) - vocabulary)


@pytest.mark.parametrize(("name", "share"), [("edge-small", 0.85), ("edge-plus", 1.25)])
def test_its_relatives_keep_to_their_share_of_q4_0s_size(name: str, share: float) -> None:
    assert full_size(RECIPES[name])[0] <= share * full_size(RECIPES["q4_0"])[0]


def test_edge_arm_has_no_type_without_a_repacked_arm_kernel() -> None:
    assert full_size(RECIPES["edge-arm"])[0] < 3.4 * 2**30
    assert full_size(RECIPES["edge-arm"])[1].keys().isdisjoint({"q5_0", "q5_1", "q4_1", "q2_k", "q3_k", "iq4_xs"})


@pytest.mark.parametrize("name", ["edge", "edge-small", "edge-plus", "edge-arm"])
@pytest.mark.parametrize("columns", [64, 80])
def test_an_own_recipe_has_a_type_for_rows_of_any_length(name: str, columns: int) -> None:
    for kind in FULL:
        assert columns % block_size(RECIPES[name].type_of(Site(kind, columns), block_size)) == 0
