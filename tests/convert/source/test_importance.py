"""Importance matrices as files: what is refused, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_edge.convert.convert import convert
from glm_edge.convert.source.importance import read_importance
from glm_edge.errors import InvalidFileError, UsageError
from glm_edge.model.gguf import read_gguf
from glm_edge.model.keys import IMATRIX
from support.checkpoints.importance import sums_of, write_importance
from support.checkpoints.small_checkpoint import CONFIG

QKV = "blk__0__attn_qkv__weight"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "negative": ({QKV: [-1.0] * 256}, "no sums of squares"),
    "not_a_number": ({QKV: [np.nan] * 256}, "no sums of squares"),
    "infinite": ({QKV: [np.inf] * 256}, "no sums of squares"),
    "all_zero": ({QKV: [0.0] * 256}, "no sums of squares"),
    "no_count": ({"count": 0.0}, "must have one count"),
    "missing": ({QKV: None}, "has nothing for blk.0.attn_qkv.weight"),
    "too_short": ({QKV: [1.0] * 224}, "has 224 columns for blk.0.attn_qkv.weight where the model has 256"),
    "another_model": ({"blk__9__ffn_up__weight": [1.0] * 256}, "blk.9.ffn_up.weight is not a matrix of this model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_matrix_is_refused_before_weights_are_read(small_checkpoint: Path, tmp_path: Path, name: str) -> None:
    replaced, message = WRONG[name]
    matrix = write_importance(tmp_path / "i.gguf", CONFIG, **replaced)
    with pytest.raises(InvalidFileError, match=message):
        convert(small_checkpoint, tmp_path / "x.gguf", type="q4_0", imatrix=matrix)
    assert not (tmp_path / "x.gguf").exists()


def test_a_model_is_no_importance_matrix(small_checkpoint: Path, tmp_path: Path) -> None:
    model = convert(small_checkpoint, tmp_path / "x.gguf", type="q4_0").path
    with pytest.raises(InvalidFileError, match="is no importance matrix"):
        read_importance(model)


def test_the_importance_is_the_mean_and_its_hash_is_in_the_file(small_checkpoint: Path, tmp_path: Path) -> None:
    matrix = write_importance(tmp_path / "i.gguf", CONFIG, count=512.0)
    found = read_importance(matrix)
    assert {name: values.tolist() for name, values in found.columns.items()} == {
        name: (sums / 512).tolist() for name, sums in sums_of(CONFIG).items()
    }
    made = convert(small_checkpoint, tmp_path / "x.gguf", type="q4_0", imatrix=matrix).path
    assert read_gguf(made).metadata[IMATRIX] == found.sha256


def test_a_type_that_needs_one_is_refused_without(small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="type iq2_xs needs an importance matrix; add --imatrix FILE or --calibrate"):
        convert(small_checkpoint, tmp_path / "x.gguf", type="iq2_xs")
