"""`glm-edge verify`: a file as it was written passes; any byte changed anywhere is found, and said where."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glm_edge.cli import glm_edge, run
from glm_edge.convert.convert import convert
from glm_edge.errors import IntegrityError, InvalidFileError, UnsupportedModelError
from glm_edge.model.ggml import block_size, dequantize, quantize, row_size
from glm_edge.model.gguf import read_gguf
from glm_edge.model.keys import HASHES, SOURCES
from glm_edge.tools.verify import FLOATS, SCALES, compare_sources, first_not_finite, verify


@pytest.fixture(scope="module")
def made(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with q4_0, q4_k, q5_k, q5_0, q6_k and f32 in it; only read it."""
    return convert(small_checkpoint, tmp_path_factory.mktemp("verify") / "x.gguf", type="q4_k_s").path


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    path = tmp_path / "copy.gguf"
    path.write_bytes(made.read_bytes())
    return path


def change(path: Path, at: int, value: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(value)


def seal(path: Path) -> None:
    """Give the head a hash that fits it: damage that the hashes do not show."""
    head = read_gguf(path)
    text = str(head.metadata[HASHES])
    content = path.read_bytes()
    blank = content[: head.data_offset].replace(text.encode(), b"0" * len(text), 1)
    change(path, content.index(text.encode()), hashlib.sha256(blank).hexdigest().encode())


@pytest.mark.parametrize("type_name", ["f32", "bf16", "q2_k", "edge"])
def test_what_was_converted_passes(
    small_checkpoint: Path, tmp_path: Path, type_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = convert(small_checkpoint, tmp_path / "x.gguf", type=type_name).path
    assert run(glm_edge, ["verify", str(path)], prog_name="glm-edge") == 0
    shown = capsys.readouterr()
    assert type_name in shown.out
    assert json.loads(shown.out.splitlines()[-1])["bytes"] == path.stat().st_size
    assert shown.err == ""


def test_progress_goes_to_the_end(made: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify(made, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] >= made.stat().st_size - 32  # the last tensor's padding


@pytest.mark.case("M9")
def test_a_changed_byte_in_any_tensor_is_exit_4_and_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tensor in read_gguf(copy).tensors:
        at = tensor.offset + 4  # no block has a scale there, and a float only its low byte
        old = copy.read_bytes()[at : at + 1]
        change(copy, at, bytes([old[0] ^ 1]))
        assert run(glm_edge, ["verify", str(copy)], prog_name="glm-edge") == 4
        assert f"data of {tensor.name} " in capsys.readouterr().err
        change(copy, at, old)
    verify(copy)


@pytest.mark.case("M6")
def test_a_scale_that_is_not_finite_is_exit_3_and_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensor = next(t for t in read_gguf(copy).tensors if t.name == "blk.1.ffn_down.weight")
    row = tensor.n_bytes // tensor.shape[1]
    change(copy, tensor.offset + 37 * row + 22, b"\x00\x7e")  # q5_0's second block begins at 22
    assert run(glm_edge, ["verify", str(copy)], prog_name="glm-edge") == 3
    assert "blk.1.ffn_down.weight row 37: a scale of its q5_0 blocks" in capsys.readouterr().err


@pytest.mark.case("M6")
def test_a_weight_that_is_not_finite_is_named(copy: Path) -> None:
    tensor = next(t for t in read_gguf(copy).tensors if t.name == "blk.0.ffn_norm.weight")
    change(copy, tensor.offset + 8, np.float32("inf").tobytes())
    with pytest.raises(InvalidFileError, match=r"blk\.0\.ffn_norm\.weight row 0: a weight"):
        verify(copy)


@pytest.mark.case("M6")
@pytest.mark.parametrize("type_name", [*SCALES, *FLOATS])
def test_scales_lie_where_libggml_reads_them(type_name: str) -> None:
    columns, size = 512, row_size(type_name, block_size(type_name))
    rows = np.random.default_rng(3).standard_normal((4, columns), dtype=np.float32)
    good = quantize(type_name, rows)
    assert first_not_finite(good.tobytes(), type_name, size) is None
    found = 0
    for at in range(size - 1):  # as a float16, wherever in the block
        data = good.copy().reshape(-1, size)
        data[5, at : at + 2] = 0x00, 0x7E  # NaN
        broken = not np.isfinite(dequantize(type_name, data.reshape(4, -1), columns)).all()
        assert (first_not_finite(data.tobytes(), type_name, size) == 5) == broken, at
        found += broken
    assert type_name in FLOATS or found == len(SCALES[type_name])


@pytest.mark.case("M9")
def test_a_change_in_the_metadata_is_exit_4(copy: Path) -> None:
    change(copy, copy.read_bytes().index(b"chatglm2-small"), b"C")
    with pytest.raises(IntegrityError, match="its metadata"):
        verify(copy)


def test_the_files_it_was_made_from_are_named_and_compared(
    small_checkpoint: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(small_checkpoint, folder)
    arguments = ["verify", str(made), "--sources", str(tmp_path), "--sources", str(folder)]
    assert run(glm_edge, arguments, prog_name="glm-edge") == 0
    sentence, line = capsys.readouterr().out.splitlines()
    assert sentence.endswith(f"; the {len(list(folder.iterdir()))} files that it was made from are unchanged too")
    named = json.loads(line)["sources"]
    assert named == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    change(folder / "pytorch_model.bin", 5000, b"\xaa\x55\xaa")
    assert run(glm_edge, arguments, prog_name="glm-edge") == 4
    assert f"{folder / 'pytorch_model.bin'}: is not the file that x.gguf was made from" in capsys.readouterr().err
    (folder / "config.json").unlink()
    assert run(glm_edge, arguments, prog_name="glm-edge") == 3
    assert "config.json: is missing" in capsys.readouterr().err


HASH = "0" * 64


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[" * 9999, "{}", "[[]]", '[["a", 1]]', '[["a", 1, "x"]]'),
        *(json.dumps([[name, 1, HASH]]) for name in ("../a", "..", "", "a\0b", "a\nb", "x" * 300)),
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_sources_that_cannot_be_compared_count_as_none(copy: Path, text: str) -> None:
    head = read_gguf(copy)
    with pytest.raises(UnsupportedModelError, match="does not name its source files"):
        compare_sources(replace(head, metadata={**head.metadata, SOURCES: text}), [copy.parent])


def test_token_ids_that_the_runtime_does_not_give_are_exit_4(copy: Path) -> None:
    content = copy.read_bytes()
    golden = str(read_gguf(copy).metadata["glm_edge.golden"])
    ids = next(ids for text, ids in json.loads(golden) if text == "a")
    old = f'["a", [{ids[0]}'
    new = f'["a", [{str(ids[0])[:-1]}{(ids[0] + 1) % 10}'
    assert old in golden
    change(copy, content.index(old.encode()), new.encode())
    seal(copy)
    with pytest.raises(IntegrityError, match="tokenizer gives"):
        verify(copy)


def test_a_file_without_hashes_is_refused(copy: Path) -> None:
    change(copy, copy.read_bytes().index(HASHES.encode()), b"other___")
    with pytest.raises(UnsupportedModelError, match="convert the checkpoint again"):
        verify(copy)


def test_hashes_of_another_form_are_refused(copy: Path) -> None:
    text = str(read_gguf(copy).metadata[HASHES])
    change(copy, copy.read_bytes().index(text.encode()), b"G")
    with pytest.raises(InvalidFileError, match="hexadecimal"):
        verify(copy)
