"""The GGUF checker on broken and hostile files: one error of ours with field and byte, soon and in little memory.

The files are real ones on disk; what llama.cpp would do with them is not tried.
"""

from __future__ import annotations

import json
import os
import random
import re
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_edge.errors import InvalidFileError, StorageError, UnsupportedModelError
from glm_edge.model.checks import check_model
from glm_edge.model.gguf import read_gguf
from support.checkpoints.file_mutations import mutate
from support.engines.gguf_bytes import build, build_model, head, key, pad, tensor, text, tiny_keys, tiny_shapes, value
from support.unmeasured import unmeasured


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def cheap() -> Iterator[None]:
    """The test takes less than a second and 100 MB of Python memory."""
    tracemalloc.start(1)
    start = time.perf_counter()
    yield
    took, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 1.0
    assert peak < 100 << 20


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def array_of(element: int, count: int, content: bytes = b"") -> bytes:
    """A key with an array whose count need not fit its content."""
    return text("k") + struct.pack("<IIQ", 9, element, count) + content


def one(shape: tuple[int, ...], type_id: int = 0, offset: int = 0, data: int = 32) -> bytes:
    """A file with one tensor entry and `data` bytes."""
    return build([], [tensor("w", shape, type_id, offset)], bytes(data))


TWO = [tensor("a", (8,)), tensor("b", (8,), 0, 32)]  # 32 bytes each
INNER = b"".join(struct.pack("<IQ", 9, 1) for _ in range(10_000))  # an array of an array of an array …

# content and what the message must say; the rows that llama.cpp's own tests/test-gguf.cpp has are named as there
CASES: dict[str, tuple[bytes, str]] = {
    "header_bad_magic": (build(magic=b"FUGG"), r"not a GGUF file \(byte 0\)"),
    "header_bad_version_0": (build(version=0), r"version 0, must be 3.* \(byte 4\)"),
    "header_bad_version_1": (build(version=1), r"version 1, must be 3"),
    "header_bad_version_future": (build(version=4), r"version 4, must be 3"),
    "header_big_endian": (build(version=3 << 24), "big-endian"),
    "header_bad_n_tensors": (build(n_tensors=2**64 - 1), r"tensor count is 18446744073709551615, .* \(byte 8\)"),
    "header_bad_n_kv": (build(n_keys=2**64 - 1), r"key count is 18446744073709551615, .* \(byte 16\)"),
    "header_n_kv_2_32": (build(n_keys=2**32), "key count is 4294967296"),
    "header_more_keys_than_there_are": (head(n_keys=1), r"ends at byte 24, inside the length of .*key 0"),
    "kv_bad_key_size": (build([u64(2**64 - 1) + b"k"]), r"key 0 of 1 is 18446744073709551615 bytes long.* \(byte 24\)"),
    "kv_empty_key": (build([key("", "u8", 1)]), "name of key 0"),
    "kv_key_with_nul": (build([key("a\0b", "u8", 1)]), "printable ASCII"),
    "kv_key_not_ascii": (build([key("é", "u8", 1)]), "printable ASCII"),
    "kv_key_too_long": (build([key("k" * 65536, "u8", 1)]), "65536 bytes long"),
    "kv_bad_type": (build([text("k") + struct.pack("<IB", 13, 1)]), r"'k' has the unknown type 13 \(byte 33\)"),
    "kv_duplicate_key": (build([key("k", "u8", 1), key("k", "u8", 1)]), r"'k' is there twice \(byte 38\)"),
    "kv_bad_align": (build([key("general.alignment", "u32", 13)]), "alignment is 13"),
    "kv_align_0": (build([key("general.alignment", "u32", 0)]), "alignment is 0"),
    "kv_align_1": (build([key("general.alignment", "u32", 1)]), "alignment is 1,"),
    "kv_align_3": (build([key("general.alignment", "u32", 3)]), "alignment is 3"),
    "kv_align_2_31": (build([key("general.alignment", "u32", 1 << 31)]), "alignment is 2147483648"),
    "kv_wrong_type_align": (build([key("general.alignment", "i32", 32)]), "type i32, must be u32"),
    "kv_align_an_array": (build([key("general.alignment", "[u32]", [32])]), r"type \[u32\], must be u32"),
    "kv_bool_2": (build([key("k", "bool", 2)]), "bool of 2"),
    "kv_bool_array": (build([key("k", "[bool]", [0, 1, 255])]), r"bool of 255, must be 0 or 1 \(byte 51\)"),
    "kv_string_length_2_64": (build([text("k") + struct.pack("<I", 8) + u64(2**64 - 1)]), "18446744073709551615 bytes"),
    "kv_string_not_utf8": (build([key("k", "str", b"ab\xff")]), r"'k' is not UTF-8 \(byte 47\)"),
    "kv_string_surrogate": (build([key("k", "str", b"\xed\xa0\x80")]), "not UTF-8"),
    "kv_array_length_2_63": (build([array_of(4, 2**63)]), "array of 9223372036854775808"),
    "kv_array_length_wraps_to_0": (build([array_of(10, 2**61)]), "array of 2305843009213693952"),
    "kv_array_of_arrays": (build([array_of(9, 1, INNER)]), "nested type 9"),
    "kv_array_bad_type": (build([array_of(13, 1, b"\0")]), "type 13"),
    "kv_strings_2_63": (build([array_of(8, 2**63)]), "array of 9223372036854775808 strings"),
    "kv_strings_too_many": (build([array_of(8, 2**20 + 1, bytes(1 << 16))]), "at most 1048576"),
    "kv_strings_cut_off": (build([array_of(8, 2**20, bytes(1 << 16))]), "inside the length of string 8193"),
    "kv_strings_length_2_63": (build([array_of(8, 1, u64(2**63))]), "inside string 0"),
    "kv_strings_not_utf8": (
        build([key("k", "[str]", [b"a", b"\xc3"])]),
        r"string 1 of key 'k' is not UTF-8 \(byte 58\)",
    ),
    "tensors_bad_name_size": (build([], [tensor("n" * 64, (8,))], bytes(32)), "64 bytes long, at most 63"),
    "tensors_empty_name": (build([], [tensor("", (8,))], bytes(32)), "name of tensor 0"),
    "tensors_name_with_nul": (build([], [tensor("a\0", (8,))], bytes(32)), "printable ASCII"),
    "tensors_bad_n_dims": (one((1, 1, 1, 1, 1)), r"'w' has 5 dimensions"),
    "tensors_no_dims": (one(()), "0 dimensions"),
    "tensors_bad_shape": (one((-1,)), r"shape \(-1,\)"),
    "tensors_zero_dim": (one((8, 0)), "at least 1"),
    "tensors_ne_too_big": (one((2**33, 2**33)), "takes"),
    "tensors_ne_overflow_to_small": (one((2**32, 2**32, 2**32, 8)), "takes"),
    "tensors_nbytes_too_big": (one((2**31, 2**31), 27), "takes"),
    "tensors_nbytes_pad_wrap": (one((4, 2**30 - 1, 2**30 + 1)), "takes 18446744073709551600 bytes"),
    "tensors_bad_type": (one((8,), 43), r"tensor type 43, which is unknown .* \(byte 45\)"),
    "tensors_removed_type": (one((32,), 4), "tensor type 4"),
    "tensors_removed_type_q4_0_4_4": (one((32,), 31), "tensor type 31"),
    "tensors_row_not_whole_blocks": (one((33,), 2), "rows of 33, must be a multiple of 32 for q4_0"),
    "tensors_bad_offset": (one((8,), 0, 2**64 - 1), "offset 18446744073709551615, must be 0"),
    "tensors_offset_past_the_end": (one((8,), 0, 1 << 20), "must be 0: it leaves a gap"),
    "tensors_offset_in_the_head": (one((8,), 0, 2**64 - 64), "must be 0"),
    "tensors_duplicate_name": (build([], [TWO[0], tensor("a", (8,), 0, 32)], bytes(64)), "'a' is there twice"),
    "tensors_overlap": (
        build([], [TWO[0], tensor("b", (8,))], bytes(64)),
        "'b' has the offset 0, must be 32: it overl",
    ),
    "tensors_gap": (build([], [TWO[0], tensor("b", (8,), 0, 64)], bytes(96)), "leaves a gap"),
    "tensors_inconsistent_align": (build([], [tensor("a", (1,)), tensor("b", (1,), 0, 4)], bytes(64)), "must be 32"),
    "data_not_enough_data": (
        build([], TWO, bytes(64))[:-1],
        r"'b' takes bytes 128 to 160, but the file ends at byte 159",
    ),
    "data_no_padding_at_the_end": (pad(head([], [tensor("a", (1,))])) + b"data", "cut off"),
    "data_mem_size_overflow": (
        build([], [tensor(name, (0x7FFFFFFFFFFFFFC0,), 24) for name in "ab"], bytes(32)),
        "takes 9223372036854775744 bytes",
    ),
    "data_behind_the_end": (build([], TWO, bytes(64)) + b"\0", "161 bytes, must have 160: something was added"),
    "padding_not_zero": (head([], TWO).ljust(96, b"x") + bytes(64), "padding before the tensors' data is not zero"),
    "file_of_43_bytes": (head([text("a") + struct.pack("<IIQ", 9, 8, 2**62)])[:43], "byte 43"),
    "file_of_0_bytes": (b"", "is empty"),
    "file_of_3_bytes": (b"GGU", "not a GGUF file"),
    "file_is_an_lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "file_is_html": (b"\r\n<!DOCTYPE HTML><html><body>404</body></html>", "HTML page"),
    "file_is_html_too": (b"<html>" + b" " * 99, "HTML page"),
    "file_is_a_zip": (b"PK\3\4" + bytes(99), "glm-edge convert"),
    "file_is_from_chatglm_cpp": (b"ggml" + bytes(99), "glm-edge convert"),
}


@pytest.mark.case("M1", "M2", "M3")
@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("name", CASES)
def test_a_broken_structure_is_named_with_its_byte(path: Path, name: str) -> None:
    content, message = CASES[name]
    path.write_bytes(content)
    with pytest.raises(InvalidFileError, match=message) as caught:
        read_gguf(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert re.search(r" \(byte \d+\)$", line)
    assert "\n" not in line


NATIVE = """
import contextlib, io, json, sys
from pathlib import Path
from glm_edge.cli import glm_edge, run
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    with contextlib.redirect_stderr(io.StringIO()) as err:
        code = run(glm_edge, ["verify", str(path)], prog_name="glm-edge")
    found[path.name] = [code, err.getvalue().count("\\n"), "llama_cpp" in sys.modules]
print(json.dumps(found))
"""


@pytest.mark.case("M1", "M2", "M3")
def test_the_command_ends_with_3_before_native_code_is_loaded(tmp_path: Path) -> None:
    for name, (content, _) in CASES.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run([sys.executable, "-c", NATIVE, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {name: [3, 1, False] for name in CASES}


@pytest.mark.case("M2")
@pytest.mark.usefixtures("cheap")
def test_a_head_of_many_gigabytes_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.write(head([array_of(0, 1 << 34)]))
        file.truncate(1 << 35)  # a hole: takes no room on the disk
    with pytest.raises(InvalidFileError, match="the most that a head may take"):
        read_gguf(path)


@pytest.mark.case("M7")
@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize("kind", ["directory", "fifo", "zero", "loop"])
def test_what_is_not_a_file_is_refused_without_waiting(path: Path, kind: str) -> None:
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no named pipes")
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif not (path := Path("/dev/zero")).exists():
        pytest.skip("this system has no /dev/zero")
    kinds = {"directory": "is a folder", "fifo": "is a named pipe", "zero": "is a device", "loop": "a link that leads"}
    with pytest.raises(InvalidFileError, match=kinds[kind]):
        read_gguf(path)


def test_a_missing_file_is_a_storage_error(path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        read_gguf(path)


@pytest.mark.case("M8")
def test_a_file_cut_off_anywhere_is_refused(path: Path) -> None:
    keys = {name: content for name, content in tiny_keys().items() if not name.startswith("tokenizer.")}
    keys["texts"] = ("[str]", ["a", "", "你好"])
    shapes = {"a": (8, 3), "b": (5,), "c": (16,)}
    path.write_bytes(build_model(keys, shapes))
    assert len(read_gguf(path).tensors) == 3
    with path.open("rb+") as file:
        for length in range(path.stat().st_size - 1, -1, -1):
            file.truncate(length)
            with pytest.raises(InvalidFileError):
                read_gguf(path)


@pytest.mark.case("M21")
def test_two_thousand_mutations_give_our_errors_or_nothing(path: Path) -> None:
    chance = random.Random(20261122)
    content = build_model(tiny_keys(), tiny_shapes())
    # most in what is not the vocabulary, which would take most of the head
    spans = [
        range(content.index(b"tokenizer.ggml.tokens")),
        range(content.index(b"tokenizer.ggml.eos"), content.index(b"output.weight") + 40),
    ]
    spans.append(range(spans[0].stop, spans[1].start))
    ours: list[str] = []
    with path.open("wb", buffering=0) as file:
        for i in range(2000):
            mutated = mutate(content, spans, chance)
            file.seek(0)
            file.truncate(file.write(mutated))
            try:
                check_model(read_gguf(path))
            except (InvalidFileError, UnsupportedModelError) as error:
                ours.append(str(error))
            except Exception as error:
                raise AssertionError(f"mutation {i}: {error!r}") from error
    assert len(ours) > 1000
    assert not [line for line in ours if "\n" in line]


COST = r"""
import re, sys, time
from pathlib import Path
from glm_edge.model.gguf import read_gguf
start = time.process_time()
assert len(read_gguf(Path(sys.argv[1])).metadata["k"]) == 1 << 20
print(time.process_time() - start, re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.case("M2")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for the memory taken")
def test_the_most_that_is_allowed_takes_less_than_a_second_and_100_megabytes(path: Path) -> None:
    path.write_bytes(build([array_of(8, 1 << 20, (u64(15) + "é0123456789abc".encode()) * (1 << 20))]))
    command = [sys.executable, "-c", COST, str(path)]
    done = subprocess.run(command, env=unmeasured(), capture_output=True, text=True, check=True)
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds < 1.0  # of processor time
    assert kilobytes < 100_000


def test_a_value_keeps_its_own_type(path: Path) -> None:
    """The builder and the reader agree on every type's number: otherwise the cases above would test little."""
    path.write_bytes(build([text("k") + value("f64", 0.1)]))
    assert read_gguf(path).types["k"] == "f64"
