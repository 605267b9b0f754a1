"""safetensors files: every rule of the format, and the verdict of the format's own library on each case."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from glm_edge.convert.source.safetensors import open_safetensors
from glm_edge.errors import IntegrityError, InvalidFileError
from support.checkpoints.memory_to_read import memory_to_read
from support.checkpoints.safetensors_writer import entry, file_bytes, write_safetensors

F32 = entry("F32", [2], 0, 8)
TEXT = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


def verdict(path: Path) -> str | None:
    """What our reader refuses the file with; None where it takes it."""
    try:
        open_safetensors(path)
    except InvalidFileError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert message.isprintable()
        return message
    return None


def library_takes(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, "numpy"):
            return True
    except safetensors.SafetensorError:
        return False


RIGHT: dict[str, bytes] = {
    "one": file_bytes({"a": F32}),
    "no_tensors": file_bytes({}, b""),
    "metadata": file_bytes({"a": F32, "__metadata__": {"format": "pt"}}),
    "metadata_null": file_bytes({"a": F32, "__metadata__": None}),
    "metadata_empty": file_bytes({"a": F32, "__metadata__": {}}),
    "names_not_in_order": file_bytes({"b": entry("F32", [1], 4, 8), "a": entry("F16", [2, 1], 0, 4)}),
    "a_single_value": file_bytes({"a": entry("I64", [], 0, 8)}),
    "no_values": file_bytes({"a": entry("F32", [2, 0], 0, 0), "b": F32, "c": entry("I8", [0], 8, 8)}),
    "padded_with_spaces": file_bytes(TEXT + b"   "),
    "another_key_in_an_entry": file_bytes({"a": F32 | {"note": 1}}),
    **{f"dtype_{d}": file_bytes({"a": entry(d, [8], 0, 8)}) for d in ("I8", "U8", "BOOL")},
    **{f"dtype_{d}": file_bytes({"a": entry(d, [4], 0, 8)}) for d in ("F16", "BF16", "I16")},
    **{f"dtype_{d}": file_bytes({"a": entry(d, [1], 0, 8)}) for d in ("F64", "I64")},
}

# (the file, what our message says)
WRONG: dict[str, tuple[bytes, str]] = {
    "seven_bytes": (b"\0" * 7, "cut short: 7 bytes"),
    "header_longer_than_the_file": (file_bytes(TEXT, length=len(TEXT) + 9), "cut short: a header of"),
    "header_of_100_000_001": (file_bytes(TEXT, length=100_000_001), "header would have 100000001 bytes"),
    "header_of_2_to_63": (file_bytes(TEXT, length=1 << 63), "not a safetensors file"),
    "header_of_all_ones": (file_bytes(TEXT, length=(1 << 64) - 1), "not a safetensors file"),
    "header_empty": (file_bytes(b"", b""), "does not begin with {"),
    "header_one_byte_short": (file_bytes(TEXT, length=len(TEXT) - 1), "is not valid JSON"),
    "header_one_byte_long": (file_bytes(TEXT, length=len(TEXT) + 1), "does not begin with {"),
    "header_not_utf8": (file_bytes(TEXT.replace(b'"a"', b'"\xff"')), "is not UTF-8"),
    "header_with_a_byte_order_mark": (file_bytes(b"\xef\xbb\xbf" + TEXT), "does not begin with {"),
    "header_a_list": (file_bytes(b"[]"), "does not begin with {"),
    "header_cut": (file_bytes(TEXT[:-1]), "is not valid JSON"),
    "header_nested_deep": (
        file_bytes(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "nested deeper than",
    ),
    "header_with_nul": (file_bytes(TEXT + b"\0"), "does not begin with { or does not end with }"),
    "two_headers": (file_bytes(TEXT + TEXT), "is not valid JSON"),
    "constant": (file_bytes(TEXT.replace(b"[2]", b"[NaN]")), "has NaN, which is not a JSON number"),
    "field_twice": (
        file_bytes(TEXT.replace(b'"shape"', b'"dtype":"F32","shape"')),
        "'dtype' twice in one object",
    ),
    "metadata_a_number": (file_bytes({"a": F32, "__metadata__": {"x": 1}}), "__metadata__ holds something other"),
    "metadata_a_list": (file_bytes({"a": F32, "__metadata__": []}), "__metadata__ holds something other"),
    "dtype_unknown": (file_bytes({"a": entry("FOO", [2], 0, 8)}), "a has the dtype 'FOO'"),
    "dtype_in_small_letters": (file_bytes({"a": entry("f32", [2], 0, 8)}), "a has the dtype 'f32'"),
    "dtype_a_number": (file_bytes({"a": F32 | {"dtype": 1}}), "a lacks a dtype"),
    "no_dtype": (file_bytes({"a": {"shape": [2], "data_offsets": [0, 8]}}), "a lacks a dtype"),
    "no_shape": (file_bytes({"a": {"dtype": "F32", "data_offsets": [0, 8]}}), "a lacks"),
    "no_offsets": (file_bytes({"a": {"dtype": "F32", "shape": [2]}}), "a lacks"),
    "entry_a_number": (file_bytes({"a": 3}), "a lacks"),
    "shape_with_a_fraction": (file_bytes({"a": F32 | {"shape": [2.0]}}), "integers from 0 on"),
    "shape_negative": (file_bytes({"a": F32 | {"shape": [-2]}}), "integers from 0 on"),
    "shape_of_true": (file_bytes({"a": F32 | {"shape": [True, 2]}}), "integers from 0 on"),
    "shape_too_large": (file_bytes({"a": F32 | {"shape": [1 << 64]}}), "integers from 0 on"),
    "shape_overflows": (file_bytes({"a": F32 | {"shape": [1 << 32, 1 << 32, 4]}}), "has 8 bytes where its shape"),
    "shape_larger": (file_bytes({"a": F32 | {"shape": [3]}}), "a has 8 bytes where its shape and dtype make 12"),
    "shape_smaller": (file_bytes({"a": F32 | {"shape": [1]}}), "a has 8 bytes where its shape and dtype make 4"),
    "one_offset": (file_bytes({"a": F32 | {"data_offsets": [0]}}), "data_offsets"),
    "three_offsets": (file_bytes({"a": F32 | {"data_offsets": [0, 8, 8]}}), "data_offsets"),
    "end_before_begin": (file_bytes({"a": entry("F32", [2], 8, 0)}), "a ends at 0, before it begins at 8"),
    "hole_at_the_start": (file_bytes({"a": entry("F32", [1], 4, 8)}), "a has a hole before it (begins at 4"),
    "hole": (file_bytes({"a": entry("I8", [3], 0, 3), "b": entry("I8", [4], 4, 8)}), "b has a hole before it"),
    "overlap": (file_bytes({"a": entry("I8", [5], 0, 5), "b": entry("I8", [4], 4, 8)}), "b overlaps the tensor"),
    "shared": (file_bytes({"a": F32, "b": F32}), "overlaps the tensor before it"),
    "no_values_inside": (file_bytes({"a": F32, "b": entry("F32", [0], 4, 4)}), "b overlaps the tensor before it"),
    "bytes_behind": (file_bytes({"a": F32}, bytes(9)), "has bytes behind its last tensor"),
    "bytes_without_a_tensor": (file_bytes({}, bytes(1)), "has bytes behind its last tensor"),
    "data_short": (file_bytes({"a": F32}, bytes(7)), "is cut short"),
    "data_missing": (file_bytes({"a": F32}, b""), "is cut short"),
}

# What the library takes, and why we do not.
STRICTER: dict[str, tuple[bytes, str]] = {
    # which of the two is meant?
    "name_twice": (file_bytes(TEXT[:-1] + b"," + TEXT[1:]), "the key 'a' twice in one object"),
    "metadata_key_twice": (
        file_bytes(TEXT[:-1] + b',"__metadata__":{"x":"1","x":"2"}}'),
        "'x' twice in one object",
    ),
    # "MUST begin with {", "MAY be trailing padded with whitespace (0x20)"
    "leading_space": (file_bytes(b" " + TEXT), "does not begin with {"),
    "trailing_newline": (file_bytes(TEXT + b"\n"), "does not end with } and spaces"),
    # an entry is an object
    "entry_a_list": (file_bytes({"a": ["F32", [2], [0, 8]]}), "a lacks"),
    # a name has to fit into a message, a shape into an array
    "name_empty": (file_bytes({"": F32}), "'' is no name of a tensor"),
    "name_of_two_lines": (file_bytes({"a\nb": F32}), r"'a\nb' is no name of a tensor"),
    "nine_dimensions": (file_bytes({"a": F32 | {"shape": [1] * 8 + [2]}}), "a has 9 dimensions"),
    # nothing of this model
    "dtype_f8": (file_bytes({"a": entry("F8_E4M3", [8], 0, 8)}), "a has the dtype 'F8_E4M3'"),
    "dtype_f4": (file_bytes({"a": entry("F4", [16], 0, 8)}), "a has the dtype 'F4'"),
    "dtype_u16": (file_bytes({"a": entry("U16", [4], 0, 8)}), "a has the dtype 'U16'"),
    "header_of_five_million": (file_bytes(TEXT + b" " * 5_000_000), "header would have 5000054 bytes"),
}


@pytest.mark.case("M14")
@pytest.mark.parametrize("name", RIGHT)
def test_what_the_format_allows_is_taken(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(RIGHT[name])
    assert verdict(path) is None
    assert library_takes(path)


@pytest.mark.case("M14")
@pytest.mark.parametrize("name", WRONG)
def test_what_breaks_a_rule_is_refused_with_the_rule(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(WRONG[name][0])
    assert WRONG[name][1] in str(verdict(path))
    assert not library_takes(path)


@pytest.mark.case("M14")
@pytest.mark.parametrize("name", STRICTER)
def test_what_is_ambiguous_or_of_no_use_is_refused_too(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(STRICTER[name][0])
    assert STRICTER[name][1] in str(verdict(path))
    assert library_takes(path)


def test_all_that_is_wrong_is_in_one_message(tmp_path: Path) -> None:
    header = {f"w{n:02}": entry("FOO", [1], 4 * n, 4 * n + 4) for n in range(30)}
    (tmp_path / "a.safetensors").write_bytes(file_bytes(header, bytes(120)))
    message = str(verdict(tmp_path / "a.safetensors"))
    assert "30 problems: w00 has the dtype" in message
    assert message.endswith("and 10 more")


@pytest.mark.case("M7")
@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"), (b"<html>", "HTML page")],
    ids=["empty", "git_lfs", "html"],
)
def test_a_failed_download_is_called_one(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    assert what in str(verdict(tmp_path / "a.safetensors"))


def test_values_of_a_file_that_the_library_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    draw = np.random.default_rng(1)
    written: dict[str, Any] = {
        "half": draw.standard_normal((5, 3)).astype(np.float16),
        "single": draw.standard_normal((4, 2, 3)).astype(np.float32),
        "bytes": np.arange(7, dtype=np.int8),
    }
    safetensors.numpy.save_file(written, path, metadata={"format": "pt"})
    tensors = open_safetensors(path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: v.shape for n, v in written.items()}
    assert np.array_equal(tensors["half"].read_rows(1, 4), written["half"][1:4].astype(np.float32))
    assert np.array_equal(tensors["single"].read_rows(2, 4), written["single"].reshape(4, 6)[2:4])
    assert tensors["bytes"].read_raw(0, 1) == written["bytes"].tobytes()


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    bits = np.array([[0x3F80, 0xC000], [0x7F7F, 0x0001]], np.uint16)  # 1, -2, the largest, the smallest
    write_safetensors(path, {"w": bits}, bf16=frozenset({"w"}))
    assert np.array_equal(open_safetensors(path)["w"].read_rows(0, 2), (bits.astype(np.uint32) << 16).view(np.float32))


@pytest.mark.case("M8")
def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": np.ones((3, 5), np.float16), "b": np.ones(2, np.float32)})
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert verdict(path), size


@pytest.mark.case("V11")
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"w": np.ones((4, 4), np.float32)})
    tensor = open_safetensors(path)["w"]
    write_safetensors(tmp_path / "b.safetensors", {"w": np.ones((4, 4), np.float32)})
    os.replace(tmp_path / "b.safetensors", path)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        tensor.read_rows(0, 1)


@pytest.mark.skipif(os.name == "nt", reason="measures memory as POSIX systems do")
def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes({"w": entry("F16", [16384, 2048], 0, 1 << 26)}, bytes(1 << 26)))
    assert memory_to_read("glm_edge.convert.source.safetensors", "open_safetensors", path) < 4096
