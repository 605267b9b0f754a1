"""Checkpoints of 4 and 8 bits: their weights come out as they were meant, and parts that do not fit are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.convert import convert
from glm_edge.convert.source.checkpoint import open_checkpoint
from glm_edge.errors import InvalidFileError
from support.checkpoints.derived_checkpoints import quantized
from support.checkpoints.safetensors_writer import write_safetensors
from support.checkpoints.small_checkpoint import CONFIG, random_weights, write_checkpoint

LAYER = "transformer.encoder.layers.1"
DENSE = f"{LAYER}.self_attention.dense.weight"
NORM = f"{LAYER}.input_layernorm.weight"
Weights = dict[str, NDArray[Any]]


def meant(stored: NDArray[Any], scale: NDArray[Any], bits: int) -> NDArray[np.float64]:
    """The weights of a stored matrix, number by number."""
    rows = []
    for row, factor in zip(stored.tolist(), scale.astype(np.float64).tolist(), strict=True):
        values = []
        for byte in row:
            if bits == 4:
                for half in ((byte & 255) >> 4, byte & 15):  # the even column, then the odd one
                    values.append(half - 16 if half > 7 else half)
            else:
                values.append(byte)
        rows.append([value * factor for value in values])
    return np.array(rows)


def checkpoint(folder: Path, bits: int, weights: Weights) -> Path:
    return write_checkpoint(folder, config=CONFIG | {"quantization_bit": bits}, weights=weights)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_weight_is_its_value_times_the_scale_of_its_row(tmp_path: Path, bits: int) -> None:
    weights = quantized(bits)
    weights[DENSE].reshape(-1)[:256] = np.arange(-128, 128)  # every byte there is
    found = open_checkpoint(checkpoint(tmp_path / "model", bits, weights)).tensors
    assert set(found) == set(random_weights())
    for name, tensor in found.items():
        assert tensor.shape == random_weights()[name].shape
    expected = meant(weights[DENSE], weights[f"{DENSE}_scale"], bits)
    assert np.array_equal(found[DENSE].read_rows(0, 256), expected)  # exact: 8 and 11 bits make 19
    assert np.array_equal(found[DENSE].read_rows(7, 9), expected[7:9])


@pytest.mark.parametrize("bits", [4, 8])
def test_the_converted_file_holds_these_weights(tmp_path: Path, bits: int) -> None:
    weights = quantized(bits)
    path = convert(checkpoint(tmp_path / "model", bits, weights), tmp_path / "x.gguf", type="f32").path
    data = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    assert np.array_equal(data["blk.1.attn_output.weight"], meant(weights[DENSE], weights[f"{DENSE}_scale"], bits))


def test_safetensors_hold_them_as_well(tmp_path: Path) -> None:
    weights = quantized(4)
    folder = checkpoint(tmp_path / "model", 4, weights)
    first = convert(folder, tmp_path / "1.gguf", type="q4_0").path
    write_safetensors(folder / "model.safetensors", weights)
    (folder / "pytorch_model.bin").unlink()
    second = convert(folder, tmp_path / "2.gguf", type="q4_0").path
    assert gguf.GGUFReader(first).tensors[3].data.tobytes() == gguf.GGUFReader(second).tensors[3].data.tobytes()


def _without(name: str) -> Callable[[Weights], object]:
    return lambda weights: weights.pop(name)


def _other(name: str, value: NDArray[Any]) -> Callable[[Weights], object]:
    return lambda weights: weights.update({name: value})


SCALE = f"{DENSE}_scale"
HALF = np.float16
MISFITS: dict[str, tuple[Callable[[Weights], object], str]] = {
    "no_scale": (_without(SCALE), f"{DENSE} holds i8 and there is no {SCALE}"),
    "no_weights": (_without(DENSE), f"{SCALE} is there without the weights it scales"),
    "short_scale": (
        _other(SCALE, np.ones(255, HALF)),
        f"{SCALE} is f16 of shape (255,) and has to be a float for each",
    ),
    "flat_scale": (
        _other(SCALE, np.ones((256, 1), HALF)),
        "of shape (256, 1) and has to be a float for each of 256 rows",
    ),
    "integer_scale": (_other(SCALE, np.ones(256, np.int8)), f"{SCALE} is i8 of shape (256,)"),
    "floats": (_other(DENSE, np.ones((256, 256), HALF)), f"{DENSE} has a scale and is f16 of shape (256, 256)"),
    "flat": (_other(DENSE, np.ones(256, np.int8)), f"{DENSE} has a scale and is i8 of shape (256,)"),
    "scale_of_a_norm": (_other(f"{NORM}_scale", np.ones(256, HALF)), f"{NORM} has a scale and is f16"),
    "narrow": (_other(DENSE, np.ones((256, 127), np.int8)), f"{DENSE} has shape (256, 254) where config.json makes it"),
    "of_eight_bits": (_other(DENSE, np.ones((256, 256), np.int8)), f"{DENSE} has shape (256, 512) where config.json"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_parts_that_do_not_fit_are_named(tmp_path: Path, name: str) -> None:
    change, message = MISFITS[name]
    weights = quantized(4)
    change(weights)
    with pytest.raises(InvalidFileError) as caught:
        convert(checkpoint(tmp_path / "model", 4, weights), tmp_path / "x.gguf")
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_all_misfits_are_in_one_message(tmp_path: Path) -> None:
    weights = quantized(8)
    del weights[SCALE], weights[f"{LAYER}.mlp.dense_4h_to_h.weight"]
    with pytest.raises(InvalidFileError, match="2 problems: "):
        open_checkpoint(checkpoint(tmp_path / "model", 8, weights))


def test_without_quantization_bit_they_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match=f"{SCALE} is not a tensor of this model"):
        convert(write_checkpoint(tmp_path / "model", weights=quantized(8)), tmp_path / "x.gguf")


@pytest.mark.case("M17")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_a_scale_that_is_no_number_is_refused_where_it_counts(tmp_path: Path, bad: float) -> None:
    weights = quantized(4)
    weights[SCALE][17] = bad
    with pytest.raises(InvalidFileError) as caught:
        convert(checkpoint(tmp_path / "model", 4, weights), tmp_path / "x.gguf", type="f32")
    assert f"{DENSE}[17, 0] is " in str(caught.value)
    assert "not a finite number" in str(caught.value)


@pytest.mark.case("M17")
def test_scales_of_zero_are_refused(tmp_path: Path) -> None:
    weights = quantized(8)
    weights[SCALE][:] = 0
    with pytest.raises(InvalidFileError, match=f"every weight of {DENSE} is zero"):
        convert(checkpoint(tmp_path / "model", 8, weights), tmp_path / "x.gguf")
