"""Writes the zip files that `torch.save` writes, without torch: what tests and benchmarks make shards with.

Members lie uncompressed, aligned to 64 bytes by an extra field, sizes in a descriptor behind the data and zip64 where
4 GiB are passed, byte for byte as torch 2.x lays them out (test_torchfile.py compares). A tensor's bytes may come in
blocks, so a shard of any size needs only one block in memory. Writes what it is told: no check that it makes sense.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

Blocks = Iterable["bytes | NDArray[Any]"]

# dtype -> (torch's name of the storage class, bytes of one value)
STORAGES = {
    "f64": ("DoubleStorage", 8),
    "f32": ("FloatStorage", 4),
    "f16": ("HalfStorage", 2),
    "bf16": ("BFloat16Storage", 2),
    "i64": ("LongStorage", 8),
    "i32": ("IntStorage", 4),
    "i8": ("CharStorage", 1),
    "u8": ("ByteStorage", 1),
}
_NUMPY = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "int64": "i64",
    "int32": "i32",
    "int8": "i8",
    "uint8": "u8",
}
_ALIGNMENT = 64
_UTF8_AND_DESCRIPTOR = 0x0808
_MAX32 = 0xFFFFFFFF


class Tensor(NamedTuple):
    """One tensor to write: `blocks` (or what it returns when called) hold its values in order, little endian."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of STORAGES; bf16 values come as bytes or uint16
    blocks: Blocks | Callable[[], Blocks]


class Member(NamedTuple):
    """One member to write; `name` is without the folder that all members lie in."""

    name: str
    size: int  # bytes
    blocks: Blocks | Callable[[], Blocks]


def write_shard(
    path: Path,
    tensors: Mapping[str, NDArray[Any]] | Iterable[Tensor],
    *,
    byteorder: bytes | None = b"little",
    serialization_id: bytes = b"0" * 40,
) -> None:
    """Write `tensors` as `torch.save(state_dict, path)` would, each in a storage of its own."""
    if isinstance(tensors, Mapping):
        tensors = [Tensor(name, a.shape, _NUMPY[a.dtype.name], [a]) for name, a in tensors.items()]
    tensors = list(tensors)
    pickled = state_dict_pickle((t.name, t.shape, t.dtype) for t in tensors)
    members = [_small("data.pkl", pickled), _small(".format_version", b"1"), _small(".storage_alignment", b"64")]
    if byteorder is not None:
        members.append(_small("byteorder", byteorder))
    for key, tensor in enumerate(tensors):
        size = prod(tensor.shape) * STORAGES[tensor.dtype][1]
        members.append(Member(f"data/{key}", size, tensor.blocks))
    members += [_small("version", b"3\n"), _small(".data/serialization_id", serialization_id)]
    write_archive(path, members)


def _small(name: str, content: bytes) -> Member:
    return Member(name, len(content), [content])


def state_dict_pickle(tensors: Iterable[tuple[str, tuple[int, ...], str]]) -> bytes:
    """The `data.pkl` of (name, shape, dtype) triples, tensor i in storage `data/i`: pickle protocol 2, as torch's."""
    memo: dict[str, int] = {}
    out = bytearray(b"\x80\x02}")
    stored = 0  # how many objects the pickle has put in its memo so far

    def put() -> bytes:
        nonlocal stored
        stored += 1
        index = stored - 1
        return b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index)

    def once(key: str, code: bytes) -> bytes:
        if key in memo:
            index = memo[key]
            return b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)
        memo[key] = stored
        return code + put()

    out += put() + b"("
    for key, (name, shape, dtype) in enumerate(tensors):
        strides = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
        storage = STORAGES[dtype][0]
        out += text(name) + put()
        out += once("rebuild", b"ctorch._utils\n_rebuild_tensor_v2\n") + b"(("
        out += once("storage", text("storage")) + once(storage, f"ctorch\n{storage}\n".encode())
        out += text(str(key)) + put() + once("cpu", text("cpu")) + integer(prod(shape))
        out += b"t" + put() + b"Q" + integer(0)
        for numbers in (shape, strides):
            out += _numbers(numbers) + (put() if numbers else b"")
        out += b"\x89" + once("hooks", b"ccollections\nOrderedDict\n") + b")R" + put()
        out += b"t" + put() + b"R" + put()
    return bytes(out + b"u.")


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    if 0 <= value < 0x100:
        return b"K" + bytes([value])
    if 0 <= value < 0x10000:
        return b"M" + struct.pack("<H", value)
    if -0x80000000 <= value < 0x80000000:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _numbers(values: tuple[int, ...]) -> bytes:
    codes = b"".join(map(integer, values))
    if not values:
        return b")"
    return codes + bytes([0x84 + len(values)]) if len(values) <= 3 else b"(" + codes + b"t"


def write_archive(path: Path, members: Iterable[Member], *, root: str | None = None) -> None:
    """Write `members` in torch's zip layout, all in the folder `root` (the file's stem where not given)."""
    central, count = bytearray(), 0
    with path.open("wb") as file:
        for member in members:
            central += _write_member(file, f"{root or path.stem}/{member.name}".encode(), member)
            count += 1
        start = file.tell()
        file.write(central)
        end64 = file.tell()
        file.write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0x31E, 45, 0, 0, count, count, len(central), start))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, end64, 1))
        file.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(central), min(start, _MAX32), 0))


def _write_member(file: BinaryIO, name: bytes, member: Member) -> bytes:
    """Write one member; returns its central directory record."""
    offset, size = file.tell(), member.size
    large = size >= _MAX32
    wide = [offset] if offset >= _MAX32 else []
    # The first header of a member of 4 GiB or more has 0 for its second size, which torch does not know yet.
    extra64, central64 = (_zip64(([size, second] if large else []) + wide) for second in (0, size))
    padding = -(offset + 30 + len(name) + len(extra64) + 4) % _ALIGNMENT
    extra = extra64 + struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    flags = _UTF8_AND_DESCRIPTOR if size else _UTF8_AND_DESCRIPTOR & ~8
    file.write(struct.pack("<4s5H3I2H", b"PK\3\4", 0, flags, 0, 0, 0, 0, 0, 0, len(name), len(extra)) + name + extra)
    crc, written = 0, 0
    for block in member.blocks() if callable(member.blocks) else member.blocks:
        data = block.tobytes() if isinstance(block, np.ndarray) else block
        crc = zlib.crc32(data, crc)
        written += file.write(data)
    if written != size:
        raise ValueError(f"{member.name}: {written} bytes came for {size}")
    if size:
        file.write(struct.pack("<4sI2Q" if extra64 else "<4sI2I", b"PK\7\x08", crc, size, size))
    short = _MAX32 if large else size
    header = (0, 0, flags, 0, 0, 0, crc, short, short, len(name), len(central64), 0, 0, 0, 0, min(offset, _MAX32))
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", *header) + name + central64


def _zip64(values: list[int]) -> bytes:
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""
