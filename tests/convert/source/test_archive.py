"""The strict zip reader: takes what torch writes, refuses what only looks like it."""

import io
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_edge.convert.source.archive import MAX_MEMBERS, open_archive
from glm_edge.convert.source.shard import open_shard
from glm_edge.errors import GlmEdgeError, InvalidFileError
from support.checkpoints.torch_writer import Member, write_archive, write_shard
from support.paths import PROJECT

WEIGHTS = np.arange(24, dtype=np.float16).reshape(4, 6)


class Parts:
    """A shard's bytes, and where its headers lie, so that a test can change one of them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.bin"
        write_shard(self.path, {"w": WEIGHTS})
        self.data = bytearray(self.path.read_bytes())
        with zipfile.ZipFile(self.path) as archive:
            self.local = {info.filename.split("/", 1)[1]: info.header_offset for info in archive.infolist()}
            self.directory = archive.start_dir
        self.central = {}
        position = self.directory
        for name in self.local:
            self.central[name] = position
            position += 46 + sum(struct.unpack_from("<3H", self.data, position + 28))
        self.end64, self.locator, self.end = position, position + 56, position + 76

    def set(self, offset: int, layout: str, *values: Any) -> None:
        struct.pack_into(f"<{layout}", self.data, offset, *values)

    def count(self, short: int, full: int) -> None:
        """Write how many records the directory has."""
        self.set(self.end + 8, "HH", short, short)
        self.set(self.end64 + 24, "QQ", full, full)

    def content(self, name: str) -> int:
        """Where a member's bytes begin."""
        local = self.local[name]
        return local + 30 + sum(struct.unpack_from("<2H", self.data, local + 26))

    def refused(self) -> str:
        self.path.write_bytes(self.data)
        with pytest.raises(InvalidFileError) as caught:
            open_shard(self.path)
        message = str(caught.value)
        assert message.startswith(f"{self.path}: ")
        assert message.isprintable()
        return message


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def test_a_shard_that_torch_wrote_is_read() -> None:
    path = PROJECT / "models" / "demo" / "pytorch_model-00002-of-00002.bin"
    archive = open_archive(path)
    with zipfile.ZipFile(path) as other:
        for info in other.infolist():
            member = archive.members[info.filename.split("/", 1)[1]]
            assert archive.read(member.name, 1 << 21) == other.read(info)
            archive.verify(member.name, block=1000)
    assert len(archive.members) == 22


@pytest.mark.skipif(os.name == "nt", reason="would write 5 GiB where files are not sparse")
def test_members_beyond_4_gib_are_found(tmp_path: Path) -> None:
    """By zip64 fields as torch writes them, in a sparse file."""
    path, gap = tmp_path / "a.bin", 5 << 30
    member = b"PK\3\4" + struct.pack("<5H3I2H", 0, 0x0808, 0, 0, 0, 0, 0, 0, 8, 20)
    sizes = struct.pack("<2H2Q", 1, 16, gap, 0)
    second = struct.pack("<2HQ", 1, 8, 30 + 8 + 20 + gap + 24)
    with path.open("wb") as file:
        file.write(member + b"a/data/0" + sizes)
        file.seek(gap, io.SEEK_CUR)
        file.write(struct.pack("<4sI2Q", b"PK\7\x08", 7, gap, gap))
        at = file.tell()
        file.write(b"PK\3\4" + struct.pack("<5H3I2H", 0, 0x0808, 0, 0, 0, 0, 0, 0, 8, 12) + b"a/data/1" + second)
        file.write(b"12" + struct.pack("<4sI2Q", b"PK\7\x08", 8, 2, 2))
        start, full = file.tell(), 0xFFFFFFFF
        head = struct.pack("<4s6H", b"PK\1\2", 0, 0, 0x0808, 0, 0, 0)
        file.write(head + struct.pack("<3I5H2I", 7, full, full, 8, 20, 0, 0, 0, 0, 0) + b"a/data/0")
        file.write(struct.pack("<2H2Q", 1, 16, gap, gap))
        file.write(head + struct.pack("<3I5H2I", 8, 2, 2, 8, 12, 0, 0, 0, 0, full) + b"a/data/1" + second)
        size = file.tell() - start
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0, 0, 0, 0, 2, 2, size, start))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, start + size, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2, 2, size, full, 0))
    members = open_archive(path).members
    assert (members["data/0"].offset, members["data/0"].size) == (30 + 8 + 20, gap)
    assert (members["data/1"].offset, members["data/1"].size) == (at + 30 + 8 + 12, 2)


CHANGES: dict[str, tuple[Callable[[Parts], None], str]] = {
    "deflated": (lambda p: p.set(p.central["data/0"] + 10, "H", 8), "compressed or encrypted (method 8"),
    "deflated in the local header": (lambda p: p.set(p.local["data/0"] + 8, "H", 8), "local header of member"),
    "encrypted": (lambda p: p.set(p.central["data/0"] + 8, "H", 0x0809), "encrypted (method 0, flags 0x0809)"),
    "encrypted in the local header": (lambda p: p.set(p.local["data/0"] + 6, "H", 0x0809), "local header of member"),
    "another local name": (lambda p: p.set(p.local["data/0"] + 37, "c", b"7"), "local header of member b'a/data/0'"),
    "another local size": (lambda p: p.set(p.local["data/0"] + 22, "I", 47), "local header of member"),
    "another local CRC": (lambda p: p.set(p.local["data/0"] + 14, "I", 1), "local header of member"),
    "another size behind the data": (lambda p: p.set(p.content("data/0") + 48 + 8, "I", 47), "descriptor behind"),
    "another CRC behind the data": (lambda p: p.set(p.content("data/0") + 48 + 4, "I", 1), "descriptor behind"),
    "a shorter member": (lambda p: p.set(p.central["data/0"] + 20, "II", 47, 47), "descriptor behind"),
    "two sizes": (lambda p: p.set(p.central["data/0"] + 20, "I", 47), "contradicting sizes (47 stored, 48"),
    "a size beyond the file": (lambda p: p.set(p.central["data/0"] + 20, "II", 1 << 31, 1 << 31), "goes beyond"),
    "zip64 without its field": (lambda p: p.set(p.central["data/0"] + 20, "II", 2**32 - 1, 2**32 - 1), "contradicting"),
    "an overlap": (lambda p: p.set(p.central["data/0"] + 42, "I", p.local["byteorder"]), "overlaps the one before"),
    "an offset beyond the file": (lambda p: p.set(p.central["data.pkl"] + 42, "I", 1 << 31), "has a gap before it"),
    "a parent folder": (lambda p: p.set(p.central["data/0"] + 46, "8s", b"a/../w/0"), "member name b'a/../w/0'"),
    "an absolute name": (lambda p: p.set(p.central["data/0"] + 46, "8s", b"/data//0"), "member name"),
    "a backslash": (lambda p: p.set(p.central["data/0"] + 46, "8s", b"a/data\\0"), "member name"),
    "a drive": (lambda p: p.set(p.central["data/0"] + 46, "8s", b"a/C:/x/0"), "member name"),
    "a second folder": (lambda p: p.set(p.central["data/0"] + 46, "8s", b"b/data/0"), "member name"),
    "a control character": (lambda p: p.set(p.central["data/0"] + 46, "8s", b"a/dat\n/0"), r"member name b'a/dat\n/0'"),
    "no UTF-8": (lambda p: p.set(p.central["data/0"] + 46, "8s", b"a/dat\xff/0"), r"member name b'a/dat\xff/0'"),
    "several disks": (lambda p: p.set(p.end + 4, "H", 1), "in several parts"),
    "a comment": (lambda p: p.data.extend(b"!"), "no zip end record"),
    "a comment that is announced": (lambda p: p.set(p.end + 20, "H", 9), "no zip end record"),
    "a record's comment": (lambda p: p.set(p.central["data/0"] + 32, "H", 1), "has a comment"),
    "an unknown extra field": (lambda p: p.set(p.local["data/0"] + 38, "H", 0x7075), "extra field 0x7075"),
    "an extra field that is too long": (lambda p: p.set(p.local["data/0"] + 40, "H", 60000), "broken or unknown extra"),
    "another record count": (lambda p: p.set(p.end + 8, "HH", 6, 6), "end records differ (6 and 7)"),
    "fewer records": (lambda p: p.count(6, 6), "belong to no record"),
    "more records": (lambda p: p.count(8, 8), "is broken"),
    "a million records": (lambda p: p.count(0xFFFF, 10**6), "1000000 members"),
    "zip64 elsewhere": (lambda p: p.set(p.locator + 8, "Q", 0), "zip64 end record is not where"),
    "a zip64 size of 2^63": (lambda p: p.set(p.end64 + 40, "Q", 1 << 63), "end records differ"),
    "a zip64 record of another length": (lambda p: p.set(p.end64 + 4, "Q", 45), "broken zip64 end record"),
    "a directory elsewhere": (lambda p: p.set(p.end + 16, "I", 0), "end records differ"),
    "bytes in front": (lambda p: p.data.__setitem__(slice(0, 0), b"PK\3\4"), "zip64 end record is not where"),
    "a damaged pickle": (lambda p: p.set(p.content("data.pkl") + 20, "c", b"X"), "data.pkl is damaged: CRC"),
    "a damaged byte order": (lambda p: p.set(p.content("byteorder"), "c", b"L"), "byteorder is damaged: CRC"),
}  # fmt: skip


@pytest.mark.case("M12")
@pytest.mark.parametrize("name", CHANGES)
def test_a_file_changed_in_one_place_is_refused(parts: Parts, name: str) -> None:
    change, what = CHANGES[name]
    change(parts)
    assert what in parts.refused()


@pytest.mark.case("M12")
def test_a_repeated_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_archive(path, [Member("data/0", 1, [b"1"]), Member("data/0", 1, [b"2"])])
    with pytest.raises(InvalidFileError, match="'data/0' is there twice"):
        open_archive(path)


@pytest.mark.case("M12")
def test_a_gap_is_refused(parts: Parts) -> None:
    """A member that the directory does not list: other readers, which go from header to header, would find it."""
    first, second = parts.central["byteorder"], parts.central["data/0"]
    del parts.data[first:second]
    removed = second - first
    parts.end, parts.end64, parts.locator = parts.end - removed, parts.end64 - removed, parts.locator - removed
    size = parts.end64 - parts.directory
    parts.set(parts.end + 8, "HHI", 6, 6, size)
    parts.set(parts.end64 + 24, "QQQ", 6, 6, size)
    parts.set(parts.locator + 8, "Q", parts.end64)
    assert "member b'a/data/0' has a gap before it" in parts.refused()


@pytest.mark.case("M12")
def test_too_many_members_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_archive(path, [Member(f"{n}", 0, []) for n in range(MAX_MEMBERS + 1)])
    with pytest.raises(InvalidFileError, match=f"{MAX_MEMBERS + 1} members"):
        open_archive(path)


def test_a_large_directory_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_archive(path, [Member(f"data/{n}", 1, [b"x"]) for n in range(2000)])
    tracemalloc.start()
    try:
        assert len(open_archive(path).members) == 2000
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.case("M9")
def test_a_damaged_tensor_is_found_by_verify(parts: Parts) -> None:
    parts.set(parts.content("data/0") + 47, "B", 255)
    parts.path.write_bytes(parts.data)
    archive = open_archive(parts.path)
    archive.verify("data.pkl")
    with pytest.raises(InvalidFileError, match=r"data/0 is damaged: CRC [0-9a-f]{8}, recorded [0-9a-f]{8}"):
        archive.verify("data/0", block=10)


@pytest.mark.case("M8")
def test_a_file_cut_short_anywhere_is_refused(parts: Parts) -> None:
    whole = bytes(parts.data)
    for size in {*range(0, len(whole), 7), *range(len(whole) - 100, len(whole))}:
        parts.data = bytearray(whole[:size])
        parts.refused()


@pytest.mark.case("M9")
def test_no_bit_outside_the_tensors_changes_what_is_read(parts: Parts) -> None:
    """Times, versions and attributes mean nothing here; every other bit that flips is noticed."""
    whole, start = bytes(parts.data), parts.content("data/0")
    noticed = 0
    for position in range(len(whole)):
        if start <= position < start + WEIGHTS.nbytes:
            continue
        parts.data = bytearray(whole)
        parts.data[position] ^= 1 << position % 8
        parts.path.write_bytes(parts.data)
        try:
            (tensor,) = open_shard(parts.path).values()
        except GlmEdgeError:
            noticed += 1
        else:
            assert (tensor.name, tensor.dtype) == ("w", "f16")
            assert np.array_equal(tensor.read_rows(0, 4), WEIGHTS)
    assert noticed > 900  # the rest is mostly padding


@pytest.mark.case("M7", "M13")
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"PK\3\4", "cut short: 4 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 1949337704\n", "run `git lfs pull`"),
        (b"<!doctype HTML>\n<title>404</title>", "an HTML page instead of the file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "resave it"),
        (b"tensors" + bytes(250) + b"ustar\x00" + bytes(249), "resave it"),
        (b"GGUF\3\0\0\0" + bytes(500), "begins with b'GGUF"),
        (bytes(1000), "not a file of torch.save"),
    ],
    ids=["empty", "magic only", "git-lfs", "html", "legacy", "tar", "gguf", "zeros"],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(InvalidFileError) as caught:
        open_archive(path)
    assert what in str(caught.value)
