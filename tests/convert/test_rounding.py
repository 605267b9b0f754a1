"""The search for better scales, against llama.cpp's own rounding into the same blocks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.quantize.rounding import BLOCK, quantize_rows
from glm_edge.model.ggml import dequantize, quantize

COLUMNS = 32 * BLOCK
TYPES = ("iq4_nl", "q4_0")  # K-quants: test_k_search.py
Floats = NDArray[np.float32]


def weights(kind: str) -> Floats:
    draw = np.random.default_rng(3)
    if kind == "random":
        rows = draw.standard_normal((48, COLUMNS))
    else:
        rows = draw.standard_t(4, (48, COLUMNS))
        rows[:, draw.integers(0, COLUMNS, 40)] *= 12  # some columns with large weights, as trained matrices have
    return (0.02 * rows).astype(np.float32)


def importance(kind: str) -> Floats | None:
    return np.random.default_rng(4).lognormal(0, 1.5, COLUMNS).astype(np.float32) if kind == "calibrated" else None


def errors(type_name: str, data: NDArray[np.uint8], rows: Floats, columns: Floats | None) -> NDArray[np.float64]:
    """Weighted squared error of each block, shape (rows, blocks of a row)."""
    squares = np.square(dequantize(type_name, data, COLUMNS).astype(np.float64) - rows)
    return (squares if columns is None else squares * columns).reshape(len(rows), -1, BLOCK).sum(axis=2)


@pytest.mark.parametrize("kind", ["random", "outliers"])
@pytest.mark.parametrize("calibration", ["calibrated", "uncalibrated"])
@pytest.mark.parametrize("type_name", TYPES)
def test_the_error_is_smaller_than_llama_cpps(type_name: str, calibration: str, kind: str) -> None:
    rows, columns = weights(kind), importance(calibration)
    ours = errors(type_name, quantize_rows(type_name, rows, columns, searched=True), rows, columns)
    theirs = errors(type_name, quantize(type_name, rows, columns), rows, columns)
    assert (ours.sum(axis=1) < theirs.sum(axis=1)).all()
    assert ours.sum() < 0.965 * theirs.sum()
    if type_name == "q4_0":  # the better of both is kept
        assert (ours <= theirs * (1 + 1e-6)).all()
    else:  # llama.cpp's search takes longer than ours, and is not run to compare
        assert (ours > theirs * (1 + 1e-6)).mean() < 0.08


@pytest.mark.parametrize("type_name", TYPES)
def test_rows_are_rounded_alike_alone_and_together(type_name: str) -> None:
    rows, columns = weights("outliers"), importance("calibrated")
    together = quantize_rows(type_name, rows, columns, searched=True)
    assert np.array_equal(quantize_rows(type_name, rows[7:8], columns, searched=True), together[7:8])
    narrow = rows[:, :BLOCK]  # one block a row
    assert np.array_equal(
        quantize_rows(type_name, narrow[:1], searched=True), quantize_rows(type_name, narrow, searched=True)[:1]
    )


@pytest.mark.parametrize("type_name", TYPES)
def test_weights_and_importances_of_nothing(type_name: str) -> None:
    rows = weights("random")[:2]
    rows[:, :BLOCK] = 0
    rows[:, BLOCK : 2 * BLOCK] = 6e4  # near the largest float16
    rows[:, 2 * BLOCK : 3 * BLOCK] *= np.float32(1e-9)
    columns = np.ones(COLUMNS, np.float32)
    columns[3 * BLOCK : 4 * BLOCK] = 0  # no input ever: rounded all the same
    for importances in (None, columns, columns * np.float32(1e30), columns * np.float32(1e-37)):
        found = dequantize(type_name, quantize_rows(type_name, rows, importances, searched=True), COLUMNS)
        assert not found[:, :BLOCK].any()
        assert np.abs(found[:, BLOCK : 2 * BLOCK] / 6e4 - 1).max() < 0.02
        assert np.abs(found - rows)[:, 3 * BLOCK :].max() < 0.02


def test_other_types_are_left_to_llama_cpp() -> None:
    rows = weights("random")
    assert np.array_equal(quantize_rows("q8_0", rows, searched=True), quantize("q8_0", rows))
    assert np.array_equal(quantize_rows("iq4_nl", rows), quantize("iq4_nl", rows))
