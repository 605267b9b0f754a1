"""A shard's tensors, read by rows; and shards whose parts do not fit together."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.source.shard import open_shard
from glm_edge.errors import IntegrityError, InvalidFileError
from support.checkpoints.memory_to_read import memory_to_read
from support.checkpoints.torch_writer import Member, Tensor, state_dict_pickle, write_archive, write_shard
from support.paths import PROJECT

HALF = np.array([[0, -0.0, 1, 65504], [6e-8, 6.1e-5, np.inf, np.nan], [-1.5, 0.1, 2, 3]], np.float16)
SINGLE = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)


def parts(tensors: list[tuple[str, tuple[int, ...], str]], data: list[bytes], **others: bytes) -> list[Member]:
    """The members of a shard; `others` replace or add members."""
    found = {"data.pkl": state_dict_pickle(tensors)} | {f"data/{key}": content for key, content in enumerate(data)}
    return [Member(name, len(content), [content]) for name, content in (found | others).items() if content]


def refused(path: Path) -> str:
    with pytest.raises(InvalidFileError) as caught:
        open_shard(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message


def test_tensors_of_a_file_that_torch_wrote() -> None:
    tensors = open_shard(PROJECT / "models" / "demo" / "pytorch_model-00002-of-00002.bin")
    assert [(t.name.split("encoder.")[1], t.shape, t.dtype) for t in list(tensors.values())[-9:-1]] == [
        ("layers.3.input_layernorm.weight", (256,), "f16"),
        ("layers.3.self_attention.query_key_value.weight", (512, 256), "f16"),
        ("layers.3.self_attention.query_key_value.bias", (512,), "f16"),
        ("layers.3.self_attention.dense.weight", (256, 256), "f16"),
        ("layers.3.post_attention_layernorm.weight", (256,), "f16"),
        ("layers.3.mlp.dense_h_to_4h.weight", (1344, 256), "f16"),
        ("layers.3.mlp.dense_4h_to_h.weight", (256, 672), "f16"),
        ("final_layernorm.weight", (256,), "f16"),
    ]


def test_integers_are_read_as_stored_and_not_as_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    values = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
    write_shard(path, {"w": values})
    tensor = open_shard(path)["w"]
    assert (tensor.dtype, tensor.shape) == ("i8", (4, 3))
    np.testing.assert_array_equal(tensor.values(tensor.read_raw(0, 4)), values)
    with pytest.raises(InvalidFileError, match="holds i8 values, not f32, f16 or bf16"):
        tensor.read_rows(0, 1)


@pytest.mark.parametrize(
    ("dtype", "stored", "expected"),
    [
        ("f16", HALF, HALF.astype(np.float32)),
        ("f32", SINGLE, SINGLE),
        # The bits of a bfloat16 are the upper 16 of a float32: 1, -2, the largest below infinity, a subnormal.
        ("bf16", np.array([[0x3F80, 0xC000], [0x7F7F, 0x0001]], "<u2"), [[1, -2], [3.3895314e38, 9.1835e-41]]),
    ],
)
def test_rows_become_float32(tmp_path: Path, dtype: str, stored: NDArray[Any], expected: NDArray[np.float32]) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, [Tensor("first", (3,), "i8", [b"abc"]), Tensor("w", stored.shape, dtype, [stored])])
    tensor = open_shard(path)["w"]
    whole = tensor.read_rows(0, len(stored))
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, np.array(expected, np.float32), rtol=1e-5 if dtype == "bf16" else 0)
    for start in range(len(stored)):
        for stop in range(start, len(stored) + 1):
            rows = tensor.read_rows(start, stop)
            assert rows.shape == (stop - start, stored.shape[1])
            np.testing.assert_array_equal(rows, whole[start:stop])


@pytest.mark.parametrize(
    ("shape", "rows"), [((6,), (1, 6)), ((), (1, 1)), ((2, 3), (2, 3)), ((2, 3, 4), (2, 12))], ids=str
)
def test_rows_of_each_shape(tmp_path: Path, shape: tuple[int, ...], rows: tuple[int, int]) -> None:
    write_shard(tmp_path / "a.bin", {"w": np.ones(shape, np.float32)})
    tensor = open_shard(tmp_path / "a.bin")["w"]
    assert tensor.read_rows(0, tensor.rows).shape == rows
    with pytest.raises(ValueError, match="which has"):
        tensor.read_rows(0, tensor.rows + 1)


def test_threads_read_at_once(tmp_path: Path) -> None:
    values = np.arange(64 * 100, dtype=np.float32).reshape(64, 100)
    write_shard(tmp_path / "a.bin", {"w": values})
    tensor = open_shard(tmp_path / "a.bin")["w"]
    wrong: list[int] = []

    def read(first: int) -> None:
        for row in range(first, 64, 4):
            if not np.array_equal(tensor.read_rows(row, row + 1)[0], values[row]):
                wrong.append(row)

    threads = [threading.Thread(target=read, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_two_names_for_one_storage(tmp_path: Path) -> None:
    """torch.save writes tied weights once."""
    pickled = state_dict_pickle([("a", (2, 3), "f16"), ("b", (2, 3), "f16")]).replace(b"X\1\0\0\x001", b"X\1\0\0\x000")
    members = parts([], [HALF.tobytes()[:12]], **{"data.pkl": pickled})
    write_archive(tmp_path / "a.bin", members)
    tensors = open_shard(tmp_path / "a.bin")
    assert tensors["a"].read_raw(0, 2) == tensors["b"].read_raw(0, 2)


def test_a_file_of_torch_before_2_1_has_no_byte_order(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.bin", {"w": SINGLE}, byteorder=None)
    assert np.array_equal(open_shard(tmp_path / "a.bin")["w"].read_rows(0, 5), SINGLE)


@pytest.mark.case("M13")
def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.bin", {"w": SINGLE}, byteorder=b"big")
    assert "not little endian" in refused(tmp_path / "a.bin")


MISFITS = {
    "short": ([b"1234"], {}, "w lies in data/0, which has 4 bytes instead of 8"),
    "long": ([bytes(12)], {}, "w lies in data/0, which has 12 bytes instead of 8"),
    "missing": ([], {}, "w lies in data/0, which is missing"),
    "extra": ([bytes(8), b"x"], {}, "no tensor lies in data/1"),
    "no pickle": ([bytes(8)], {"data.pkl": b""}, "has no member data.pkl"),
    "large pickle": ([bytes(8)], {"data.pkl": bytes((1 << 20) + 1)}, "data.pkl has 1048577 bytes, more than the limit"),
    "script": ([bytes(8)], {"constants.pkl": b"}."}, "a TorchScript program"),
}


@pytest.mark.case("M13")
@pytest.mark.parametrize("name", MISFITS)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    data, others, what = MISFITS[name]
    write_archive(tmp_path / "a.bin", parts([("w", (2,), "f32")], data, **others))
    assert what in refused(tmp_path / "a.bin")


def test_all_misfits_are_in_one_message(tmp_path: Path) -> None:
    tensors = [(f"w{n}", (2,), "f32") for n in range(30)]
    write_archive(tmp_path / "a.bin", parts(tensors, [b"1234"] * 30))
    message = refused(tmp_path / "a.bin")
    assert "30 problems: w0 lies in data/0" in message
    assert "w19 lies" in message
    assert message.endswith("; and 10 more")


@pytest.mark.case("V11")
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, {"w": SINGLE})
    tensor = open_shard(path)["w"]
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match="changed while it was read"):
        tensor.read_rows(0, 1)
    other = tmp_path / "b.bin"
    other.write_bytes(content)
    os.replace(other, path)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        tensor.read_rows(0, 1)
    path.unlink()
    with pytest.raises(InvalidFileError, match="is missing"):
        tensor.read_rows(0, 1)


@pytest.mark.skipif(os.name == "nt", reason="measures memory as POSIX systems do")
def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    block = bytes(1 << 20)
    write_shard(path, [Tensor("w", (16384, 2048), "f16", lambda: (block for _ in range(64)))])  # 64 MiB
    assert memory_to_read("glm_edge.convert.source.shard", "open_shard", path) < 4096
