"""The zip files that torch.save writes, read strictly: every byte belongs to exactly one member.

Accepted is what torch's writer makes (torch 1.6 and later, miniz): stored members in one folder, one after the other,
sizes in a descriptor after the data, zip64 beyond 4 GiB. Refused are compression, encryption, comments, gaps, overlaps,
repeated names, and headers that contradict the directory. Layout: PKWARE APPNOTE 6.3.10, 4.3 and 4.5.
`read` and `verify` check CRCs. Not here: what members mean, and the CRCs of large ones (`shard.py`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from glm_edge.errors import InvalidFileError

from .files import StableFile, is_plain, refuse_download_error, shown

MAX_MEMBERS = 1 << 14  # the largest shard of the real checkpoint has 60
MAX_DIRECTORY = 4 << 20  # bytes

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "see the zip64 field"
_DESCRIPTOR, _UTF8 = 0x0008, 0x0800  # the flags torch sets
_ZIP64, _PADDING = 0x0001, 0x4246  # extra fields; the second aligns the data to 64 bytes
# torch before 1.6: a pickle that begins with this number, 0x1950a86a20f9469cfc6c
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"


@dataclass(frozen=True)
class Member:
    """One member of an archive; its bytes begin at `offset` in the file."""

    name: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class Archive:
    """An archive whose structure has been checked. Names leave out the folder that all members lie in."""

    file: StableFile
    members: Mapping[str, Member]

    def read(self, name: str, limit: int) -> bytes:
        """A small member, whole. Raises InvalidFileError if it is missing, larger than `limit` bytes or damaged."""
        member = self.members.get(name)
        if member is None:
            _refuse(self.file.path, f"has no member {name}: not a file of torch.save")
        if member.size > limit:
            _refuse(self.file.path, f"{name} has {member.size} bytes, more than the limit of {limit}")
        content = bytes(self.file.read(member.offset, member.size))
        self._check(member, zlib.crc32(content))
        return content

    def verify(self, name: str, block: int = 1 << 20) -> None:
        """Compare the CRC of a member of any size, `block` bytes at a time. Raises InvalidFileError."""
        member = self.members[name]
        crc, end = 0, member.offset + member.size
        for offset in range(member.offset, end, block):
            crc = zlib.crc32(self.file.read(offset, min(block, end - offset)), crc)
        self._check(member, crc)

    def _check(self, member: Member, crc: int) -> None:
        if crc != member.crc:
            raise damaged(self.file.path, member.name, crc, member.crc)


def damaged(path: Path, name: str, found: int, expected: int) -> InvalidFileError:
    """The error for a part `name` of a file whose CRC is another than the recorded one."""
    return InvalidFileError(
        f"{path}: {name} is damaged: CRC {found:08x}, recorded {expected:08x}; download the file again"
    )


@dataclass(frozen=True)
class _Entry:
    """A record of the central directory."""

    name: bytes
    flags: int
    crc: int
    size: int
    offset: int  # of the local header


def open_archive(path: Path) -> Archive:
    """Check the whole structure of the archive at `path`, reading headers only.

    Raises InvalidFileError for anything that torch's writer would not have written, StorageError, IntegrityError.
    """
    file = StableFile.find(path)
    head = bytes(file.read(0, min(file.size, 512)))
    if not head.startswith(b"PK\3\4"):
        _refuse_other_format(path, head)
    start, size, count = _locate_directory(file)
    entries = _read_directory(file, start, size, count)
    members: dict[str, Member] = {}
    expected = 0
    folder = entries[0].name.split(b"/")[0]
    for entry in sorted(entries, key=lambda e: e.offset):
        if entry.offset != expected:
            kind = "overlaps the one before" if entry.offset < expected else "has a gap before it"
            _refuse(path, f"member {shown(entry.name)} {kind} (offset {entry.offset}, expected {expected})")
        name = _member_name(path, entry.name, folder)
        if name in members:
            _refuse(path, f"member {shown(name)} is there twice")
        data, expected = _read_local(file, entry, start)
        members[name] = Member(name, data, entry.size, entry.crc)
    if expected != start:
        _refuse(path, f"{start - expected} bytes at offset {expected} belong to no member")
    return Archive(file, members)


def _refuse(path: Path, what: str) -> NoReturn:
    raise InvalidFileError(f"{path}: {what}")


def _refuse_other_format(path: Path, head: bytes) -> NoReturn:
    refuse_download_error(path, head)
    if head.startswith((_LEGACY, b"\x80")) or head[257:262] == b"ustar":
        _refuse(path, "in torch's format of before 1.6; resave it: torch.save(torch.load(F, weights_only=True), F)")
    _refuse(path, f"not a file of torch.save: begins with {shown(head[:8])}")


def _locate_directory(file: StableFile) -> tuple[int, int, int]:
    """(offset, bytes, records) of the central directory. The end records must be the last bytes of the file."""
    path, end = file.path, file.size - _END.size
    if end < 0:
        _refuse(path, f"cut short: {file.size} bytes are no zip file")
    tail_start = max(0, end - _LOCATOR.size - _END64.size)
    tail = bytes(file.read(tail_start, file.size - tail_start))
    magic, disk, cd_disk, here, count, size, start, comment = _END.unpack_from(tail, len(tail) - _END.size)
    if magic != b"PK\5\6" or comment:
        _refuse(path, "cut short or damaged: no zip end record in its last 22 bytes; download it again")
    if disk or cd_disk or here != count:
        _refuse(path, "a zip file in several parts")
    behind = end
    if tail[-_END.size - _LOCATOR.size :].startswith(b"PK\6\7"):
        behind = end - _LOCATOR.size - _END64.size
        _, locator_disk, offset64, disks = _LOCATOR.unpack_from(tail, len(tail) - _END.size - _LOCATOR.size)
        if locator_disk or disks != 1 or offset64 != behind or behind < 0:
            _refuse(path, f"its zip64 end record is not where the locator says (offset {offset64})")
        magic, length, _, _, disk, cd_disk, here, count64, size64, start64 = _END64.unpack_from(tail)
        if magic != b"PK\6\6" or length != _END64.size - 12 or disk or cd_disk or here != count64:
            _refuse(path, "a broken zip64 end record")
        for short, full, value in ((count, _FULL16, count64), (size, _FULL32, size64), (start, _FULL32, start64)):
            if short not in (value, full):
                _refuse(path, f"its two end records differ ({short} and {value})")
        count, size, start = count64, size64, start64
    if start + size != behind:
        _refuse(path, f"its directory ({size} bytes at {start}) does not end where the end record begins ({behind})")
    if not 0 < count <= MAX_MEMBERS or size > MAX_DIRECTORY:
        _refuse(path, f"{count} members in {size} bytes of directory, outside 1 to {MAX_MEMBERS} in {MAX_DIRECTORY}")
    return start, size, count


def _read_directory(file: StableFile, start: int, size: int, count: int) -> list[_Entry]:
    directory, entries, position = bytes(file.read(start, size)), [], 0
    for number in range(count):
        if position + _CENTRAL.size > size or not directory.startswith(b"PK\1\2", position):
            _refuse(file.path, f"record {number} of its directory is broken (offset {start + position})")
        entry, position = _read_record(file.path, directory, position)
        entries.append(entry)
    if position != size:
        _refuse(file.path, f"{size - position} bytes of its directory belong to no record")
    return entries


def _read_record(path: Path, directory: bytes, position: int) -> tuple[_Entry, int]:
    """The record at `position` and where the next one begins."""
    fields = _CENTRAL.unpack_from(directory, position)
    _, _, _, flags, method, _, _, crc, packed, length, name_length, extra_length, comment, disk, _, _, offset = fields
    position += _CENTRAL.size
    name = directory[position : position + name_length]
    position += name_length
    extra = directory[position : position + extra_length]
    position += extra_length
    if position > len(directory) or comment or disk:
        _refuse(path, f"the directory's record of member {shown(name)} is cut short or has a comment")
    if flags & ~(_DESCRIPTOR | _UTF8) or method:
        _refuse(path, f"member {shown(name)} is compressed or encrypted (method {method}, flags {flags:#06x})")
    values, wide = [length, packed, offset], _extra_fields(path, name, extra)
    if values.count(_FULL32) != len(wide) or packed != length:
        _refuse(path, f"member {shown(name)} has contradicting sizes ({packed} stored, {length} unpacked)")
    length, packed, offset = (wide.pop(0) if value == _FULL32 else value for value in values)
    if packed != length:
        _refuse(path, f"member {shown(name)} has contradicting sizes ({packed} stored, {length} unpacked)")
    return _Entry(name, flags, crc, length, offset), position


def _extra_fields(path: Path, name: bytes, extra: bytes) -> list[int]:
    """The 64-bit numbers of the zip64 field. Only that field and torch's padding may be there, once each."""
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(extra):
        kind, length = struct.unpack("<2H", extra[position : position + 4].ljust(4, b"\0"))
        content = extra[position + 4 : position + 4 + length]
        if kind not in (_ZIP64, _PADDING) or kind in fields or position + 4 + length > len(extra):
            _refuse(path, f"member {shown(name)} has a broken or unknown extra field {kind:#06x}")
        fields[kind] = content
        position += 4 + length
    wide = fields.get(_ZIP64, b"")
    if len(wide) % 8 or len(wide) > 24:
        _refuse(path, f"member {shown(name)} has a zip64 field of {len(wide)} bytes")
    return list(struct.unpack(f"<{len(wide) // 8}Q", wide))


def _member_name(path: Path, name: bytes, folder: bytes) -> str:
    """The name within the archive's one folder. No file is written under it, but torch never writes `..` either."""
    parts = name.split(b"/")
    try:
        text = b"/".join(parts[1:]).decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    suspect = {b"", b".", b".."} & set(parts) or b"\\" in name or b":" in name
    if suspect or parts[0] != folder or not is_plain(text):
        _refuse(path, f"member name {shown(name)} is not one that torch.save gives")
    return text


def _read_local(file: StableFile, entry: _Entry, limit: int) -> tuple[int, int]:
    """(offset of the data, offset after the member). Local header and descriptor must agree with `entry`, and the
    member must end at `limit` at the latest."""
    path, name = file.path, shown(entry.name)
    if entry.offset + _LOCAL.size + len(entry.name) + entry.size > limit:
        _refuse(path, f"member {name} goes beyond the file's members ({entry.size} bytes at {entry.offset})")
    header = file.read(entry.offset, _LOCAL.size)
    magic, _, flags, method, _, _, crc, packed, length, name_length, extra_length = _LOCAL.unpack(header)
    data = entry.offset + _LOCAL.size + name_length + extra_length
    if magic != b"PK\3\4" or (flags, method, name_length) != (entry.flags, 0, len(entry.name)) or data > limit:
        _refuse(path, f"the local header of member {name} differs from the directory (offset {entry.offset})")
    rest = bytes(file.read(entry.offset + _LOCAL.size, name_length + extra_length))
    wide = _extra_fields(path, entry.name, rest[name_length:])
    unknown_yet = {0} if flags & _DESCRIPTOR else set()
    sizes = {entry.size} | unknown_yet | ({_FULL32} if wide else set())
    # torch puts the header's own offset into the zip64 field where that passes 4 GiB
    wide_values = {entry.size, entry.offset} | unknown_yet
    if (
        rest[:name_length] != entry.name
        or crc not in {entry.crc} | unknown_yet
        or not {packed, length} <= sizes
        or not set(wide) <= wide_values
    ):
        _refuse(path, f"the local header of member {name} differs from the directory (offset {entry.offset})")
    descriptor = b""
    if flags & _DESCRIPTOR:
        layout = "<4sI2Q" if wide else "<4sI2I"
        descriptor = struct.pack(layout, b"PK\7\x08", entry.crc, entry.size, entry.size)
    after = data + entry.size + len(descriptor)
    if after > limit or file.read(data + entry.size, len(descriptor)) != descriptor:
        _refuse(path, f"the descriptor behind member {name} differs from the directory (offset {data + entry.size})")
    return data, after
