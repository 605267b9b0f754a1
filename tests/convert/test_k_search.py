"""The search for better K-quants, against llama.cpp's own super-blocks."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.quantize.k_quants import KINDS, SUPER_BLOCK, pack, unpack
from glm_edge.convert.quantize.rounding import quantize_rows
from glm_edge.model.ggml import dequantize, quantize

COLUMNS = 2 * SUPER_BLOCK
Floats = NDArray[np.float32]

# What is left of llama.cpp's squared error, at most, without and with importances.
SHARES = {"q3_k": (0.93, 0.97), "q4_k": (0.97, 0.97), "q5_k": (0.94, 0.92), "q6_k": (0.95, 0.96)}


def weights(rows: int = 24) -> Floats:
    return (0.02 * np.random.default_rng(3).standard_t(5, (rows, COLUMNS))).astype(np.float32)


def importance() -> Floats:
    return np.random.default_rng(4).lognormal(0, 1.5, COLUMNS).astype(np.float32)


def by_gguf(type_name: str, data: NDArray[np.uint8]) -> Floats:
    """The weights as the gguf package reads them: another implementation than libggml's."""
    kind = gguf.GGMLQuantizationType[type_name.upper()]
    return np.asarray(gguf.dequantize(data, kind), np.float32)


@pytest.mark.parametrize("calibrated", [False, True], ids=["uncalibrated", "calibrated"])
@pytest.mark.parametrize("type_name", KINDS)
def test_no_super_block_is_worse_than_llama_cpps(type_name: str, calibrated: bool) -> None:
    rows, columns = weights(), importance() if calibrated else None
    errors = []
    for data in (quantize_rows(type_name, rows, columns, searched=True), quantize(type_name, rows, columns)):
        squares = np.square(by_gguf(type_name, data).astype(np.float64) - rows)
        errors.append((squares if columns is None else squares * columns).reshape(-1, SUPER_BLOCK).sum(axis=1))
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
    assert errors[0].sum() < SHARES[type_name][calibrated] * errors[1].sum()


@pytest.mark.parametrize("type_name", KINDS)
def test_a_super_block_is_packed_as_it_was_unpacked(type_name: str) -> None:
    rows = weights()
    blocks = quantize(type_name, rows).reshape(rows.size // SUPER_BLOCK, -1)
    scales = unpack(type_name, blocks)
    size = SUPER_BLOCK // KINDS[type_name].sub_blocks
    scale, minimum = (
        np.repeat((d * parts).T, size, axis=1)
        for d, parts in ((scales.d, scales.scales), (scales.dmin, scales.minimums))
    )
    assert scale.all()
    codes = np.rint((by_gguf(type_name, blocks) + minimum) / scale)
    assert np.array_equal(pack(type_name, scales, codes), blocks)


@pytest.mark.parametrize("type_name", KINDS)
def test_rows_are_rounded_alike_alone_and_together(type_name: str) -> None:
    rows, columns = weights(70), importance()  # more than a chunk
    together = quantize_rows(type_name, rows, columns, searched=True)
    assert np.array_equal(quantize_rows(type_name, rows[7:8], columns, searched=True), together[7:8])
    narrow = rows[:, :SUPER_BLOCK]  # one super-block a row
    assert np.array_equal(
        quantize_rows(type_name, narrow[:1], searched=True), quantize_rows(type_name, narrow, searched=True)[:1]
    )


@pytest.mark.parametrize("type_name", KINDS)
def test_weights_and_importances_of_nothing(type_name: str) -> None:
    rows = np.zeros((4, COLUMNS), np.float32)
    rows[1] = weights(1) * np.float32(1e-9)  # below the least float16
    rows[2] = 6e4  # near the largest
    rows[3] = weights(1)
    rows[3, :32] = 0
    columns = np.ones(COLUMNS, np.float32)
    columns[SUPER_BLOCK:] = 0  # no input ever: rounded all the same
    for importances in (None, columns, columns * np.float32(1e30), columns * np.float32(1e-37)):
        found = dequantize(type_name, quantize_rows(type_name, rows, importances, searched=True), COLUMNS)
        assert not found[0].any()
        assert np.abs(found[1]).max() < 1e-7
        assert np.abs(found[2] / 6e4 - 1).max() < 0.02
        assert np.abs(found[3] - rows[3]).max() < 0.05
        assert not found[3, :32].any()
