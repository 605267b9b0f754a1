"""The shard writer of these tests against files that the real torch wrote."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from support.checkpoints.torch_writer import Member, Tensor, write_archive, write_shard
from support.paths import PROJECT


def test_the_members_of_a_file_that_torch_wrote_are_laid_out_alike(tmp_path: Path) -> None:
    source = PROJECT / "models" / "demo" / "pytorch_model-00002-of-00002.bin"
    with zipfile.ZipFile(source) as archive:
        content = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    write_archive(tmp_path / source.name, [Member(name, len(data), [data]) for name, data in content.items()])
    assert (tmp_path / source.name).read_bytes() == source.read_bytes()


def test_blocks_are_taken_one_by_one(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    write_shard(tmp_path / "a.bin", [Tensor("w", (6, 2), "f32", lambda: (rows[i : i + 2] for i in (0, 2, 4)))])
    with zipfile.ZipFile(tmp_path / "a.bin") as archive:
        assert archive.testzip() is None
        assert archive.read("a/data/0") == rows.tobytes()


def test_a_tensor_short_of_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 bytes came for 8"):
        write_shard(tmp_path / "a.bin", [Tensor("w", (2,), "f32", [b"1234"])])
