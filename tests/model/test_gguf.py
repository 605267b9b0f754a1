"""The GGUF checker on sound files: everything read equal, quickly, and arrays as they were written."""

from __future__ import annotations

import ctypes
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from glm_edge.model.gguf import read_gguf
from glm_edge.model.values import TENSOR_TYPES, ScalarArray, StringArray
from support.engines.gguf_bytes import CODES, build, head, key, pad, tensor, tiny_keys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_a_file_of_the_gguf_package_is_read_equal(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "chatglm")
    values = {
        "uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 4294967295, "int32": -2147483648,
        "float32": 0.5, "uint64": 2**64 - 1, "int64": -(2**63), "float64": 1e300, "bool": True, "string": "答：\n",
    }  # fmt: skip
    for name, content in values.items():
        getattr(writer, f"add_{name}")(f"test.{name}", content)
    writer.add_array("test.texts", ["a", "你好", "", "<0x0A>"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.25, -1.5])
    weights = {
        "f32": np.arange(12, dtype=np.float32).reshape(3, 4),
        "f16": np.arange(7, dtype=np.float16),
        "q8_0": gguf.quants.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q8_0),
    }
    for name, array in weights.items():
        writer.add_tensor(name, array, raw_dtype=gguf.GGMLQuantizationType.Q8_0 if name == "q8_0" else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    file = read_gguf(path)

    found = {name: file.metadata[f"test.{name}"] for name in values}
    assert found == values
    assert file.types["test.uint64"] == "u64"
    assert file.metadata["general.architecture"] == "chatglm"
    assert list(file.metadata["test.texts"]) == ["a", "你好", "", "<0x0A>"]
    assert list(file.metadata["test.ints"]) == [1, -2, 3]
    assert list(file.metadata["test.floats"]) == [0.25, -1.5]
    assert [(t.name, t.shape, TENSOR_TYPES[t.type][0]) for t in file.tensors] == [
        ("f32", (4, 3), "f32"),
        ("f16", (7,), "f16"),
        ("q8_0", (64, 2), "q8_0"),
    ]
    content = path.read_bytes()
    assert len(content) == file.size
    for t in file.tensors:
        assert content[t.offset : t.offset + t.n_bytes] == weights[t.name].tobytes()


@pytest.mark.parametrize("type_name", sorted(CODES))
def test_an_array_gives_what_was_written(path: Path, type_name: str) -> None:
    written = [1, 0, 1, 1, 0]
    path.write_bytes(build([key("k", f"[{type_name}]", written), key("none", f"[{type_name}]", [])]))
    file = read_gguf(path)
    array = file.metadata["k"]
    assert isinstance(array, ScalarArray)
    assert file.types["k"] == f"[{array.type}]" == f"[{type_name}]"
    assert list(array) == written
    assert [array[i] for i in range(-5, 5)] == written * 2
    assert array[1:4] == (0, 1, 1)
    assert list(file.metadata["none"]) == []
    with pytest.raises(IndexError):
        array[5]


def test_a_text_array_gives_what_was_written(path: Path) -> None:
    written = ["", "a", "问：", "😀" * 10]
    path.write_bytes(build([key("k", "[str]", written), key("none", "[str]", [])]))
    array = read_gguf(path).metadata["k"]
    assert isinstance(array, StringArray)
    assert list(array) == written
    assert [array[i] for i in range(-4, 4)] == written * 2
    assert array[::2] == ("", "问：")
    with pytest.raises(IndexError):
        array[4]


@pytest.mark.parametrize("alignment", [8, 64, 65536])
def test_the_alignment_of_the_file_is_followed(path: Path, alignment: int) -> None:
    first = head([key("general.alignment", "u32", alignment)], [tensor("a", (2,)), tensor("b", (1,), 0, alignment)])
    path.write_bytes(pad(first, alignment) + pad(b"a" * 8, alignment) + pad(b"b" * 4, alignment))
    file = read_gguf(path)
    assert [(t.offset - file.data_offset, t.n_bytes) for t in file.tensors] == [(0, 8), (alignment, 4)]
    assert file.data_offset % alignment == 0


@pytest.mark.parametrize("content", [head(), build(), build([key("k", "str", "v")])], ids=["head", "padded", "key"])
def test_a_file_without_tensors_is_sound(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert read_gguf(path).tensors == ()


def test_a_vocabulary_of_the_real_size_is_read_in_less_than_half_a_second(path: Path) -> None:
    n = 65024
    texts = [f"▁word{i}" for i in range(n)]
    keys = [key("t", "[str]", texts), key("s", "[f32]", [-1.0] * n), key("y", "[i32]", [1] * n)]
    path.write_bytes(build(keys))
    start = time.thread_time()
    file = read_gguf(path)
    assert time.thread_time() - start < 0.5  # about 0.03 s of a processor; the rest is for slow ones
    assert list(file.metadata["t"]) == texts


def test_reading_takes_memory_for_the_head_alone(path: Path) -> None:
    size = 1 << 30
    first = pad(head([key(name, *content) for name, content in tiny_keys().items()], [tensor("w", (size // 4,))]))
    with path.open("wb") as file:
        file.write(first)
        file.truncate(len(first) + size)  # a hole: takes no room on the disk
    tracemalloc.start()
    assert read_gguf(path).tensors[0].n_bytes == size
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_the_tensor_types_are_those_of_the_installed_llama_cpp() -> None:
    ggml = pytest.importorskip("llama_cpp").llama_cpp._lib
    for name, result in (("ggml_blck_size", ctypes.c_int64), ("ggml_type_size", ctypes.c_size_t)):
        getattr(ggml, name).restype = result
        getattr(ggml, name).argtypes = [ctypes.c_int]
    count = max(TENSOR_TYPES) + 1  # GGML_TYPE_COUNT; ggml does not check its argument
    theirs = {i: (ggml.ggml_blck_size(i), ggml.ggml_type_size(i)) for i in range(count)}
    assert {i: sizes for i, sizes in theirs.items() if sizes[1]} == {i: t[1:] for i, t in TENSOR_TYPES.items()}
