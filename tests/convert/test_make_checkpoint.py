"""The benchmarks' checkpoint maker: the real shapes, names and shards; files that the converter reads; sane weights."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from glm_edge.convert.source.checkpoint import open_checkpoint
from support.paths import BENCHMARKS

SCRIPT = BENCHMARKS / "make_checkpoint.py"
TINY = ["--hidden", "32", "--layers", "3", "--heads", "2", "--groups", "1", "--ffn", "96", "--vocab", "64800"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def tokenizer(tiny_checkpoint: Path) -> Path:
    return tiny_checkpoint / "tokenizer.model"


def test_sizes_of_a_checkpoint_give_its_tensors_in_its_shapes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "t", "--from-reference", tiny_checkpoint, "--shards", "3")
    assert done.returncode == 0, done.stderr
    ours, theirs = open_checkpoint(tmp_path / "t"), open_checkpoint(tiny_checkpoint)
    sizes = [(c.config.hidden_size, c.config.ffn_hidden_size, c.config.padded_vocab_size) for c in (ours, theirs)]
    assert sizes[0] == sizes[1]
    shapes = [{name: (t.shape, t.dtype) for name, t in checkpoint.tensors.items()} for checkpoint in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert len(list((tmp_path / "t").glob("*.bin"))) == 3


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_weights_are_sane_and_no_two_rows_are_equal(tokenizer: Path, tmp_path: Path, dtype: str) -> None:
    done = run(tmp_path / "t", *TINY, "--dtype", dtype, "--tokenizer", tokenizer)
    assert done.returncode == 0, done.stderr
    for name, tensor in open_checkpoint(tmp_path / "t").tensors.items():
        rows = tensor.read_rows(0, tensor.shape[0] if len(tensor.shape) == 2 else 1)  # a vector is one row
        assert np.isfinite(rows).all()
        if name.endswith("norm.weight"):
            assert rows.mean() == pytest.approx(1, abs=0.1)
        elif len(tensor.shape) == 2:
            assert rows.std() * np.sqrt(tensor.shape[1]) == pytest.approx(1.3, rel=0.1)
            assert len(np.unique(rows[:, :8], axis=0)) == len(rows)


def test_members_are_stored_and_aligned_to_64_bytes(tokenizer: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "t", *TINY, "--shards", "4", "--tokenizer", tokenizer)
    assert done.returncode == 0, done.stderr
    for path in sorted((tmp_path / "t").glob("*.bin")):
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            data = path.read_bytes()
            for info in archive.infolist():
                assert info.compress_type == zipfile.ZIP_STORED
                at = info.header_offset
                lengths = sum(struct.unpack_from("<HH", data, at + 26))  # of the name and of the extra field
                assert (at + 30 + lengths) % 64 == 0


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tokenizer: Path, tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        done = run(tmp_path / name, *TINY, "--seed", seed, "--tails", "5", "--tokenizer", tokenizer)
        assert done.returncode == 0, done.stderr
        contents.append((tmp_path / name / "pytorch_model.bin").read_bytes())
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "33"], "hidden must be heads x kv-channels"),
        (["--layers", "0"], "at least 1"),
        (["--shards", "99"], "1 to 18"),
        (["--tails", "2"], "above 2"),
        (["--tokenizer", "nowhere"], "no tokenizer at nowhere"),
        (["--layers", "100000000"], "at most 512"),
        (["--vocab", "4194304"], "must stay below"),
        (["--hidden", "131072", "--heads", "1024", "--kv-channels", "128", "--layers", "512"], "GB are needed"),
    ],
    ids=["hidden", "no_layers", "shards", "tails", "tokenizer", "layers", "vocabulary", "disk"],
)
def test_impossible_options_are_refused_at_once(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(tmp_path / "t", "--tokenizer", __file__, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "t").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    done = run(tmp_path, "--tokenizer", __file__)
    assert done.returncode == 2
    assert "not an empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
