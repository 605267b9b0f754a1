"""A power cut at any moment of a conversion: the output's name leads to the old file or to the whole new one.

The system's calls of a real conversion are recorded and played again up to every one of them. A cut then loses what
was not sent to the disk: of the files' data any of the writes since the last fsync of that file, of the folder every
change from some point after its last fsync on (journals keep the order of those).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from glm_edge.convert.convert import convert
from support.checkpoints.small_checkpoint import CONFIG, write_checkpoint

pytestmark = pytest.mark.skipif(os.name == "nt", reason="folders have no fsync there")

Operation = tuple[Any, ...]
OLD = b"the old file"


class Recorder:
    """The calls that change files and names in one folder, in order: ("write", inode, offset, data), ("fsync", inode),
    ("fsync folder",), ("name", name, inode), ("rename", from, to), ("remove", name)."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Operation] = []
        self._folder = folder
        self._inodes: dict[int, int] = {}  # of open files of the folder
        self._folders: set[int] = set()
        for name in ("open", "write", "fsync", "replace", "rename", "link", "unlink", "close"):
            monkeypatch.setattr(os, name, self._wrapped(getattr(self, f"_{name}"), getattr(os, name)))
        for name in ("pwrite", "writev", "ftruncate", "fdatasync", "sendfile", "truncate"):
            monkeypatch.setattr(os, name, self._unknown, raising=False)  # not every system has each

    def _unknown(self, *_: Any) -> None:
        raise AssertionError("a call that this test does not know of")

    def _wrapped(self, record: Callable[..., None], real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            before = os.lseek(args[0], 0, os.SEEK_CUR) if args[0] in self._inodes and record == self._write else 0
            result = real(*args, **options)
            record(result, before, *args)
            return result

        return call

    def _ours(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and Path(path).parent == self._folder

    def _open(self, fd: int, _: int, path: Any, flags: int, *__: Any) -> None:
        self._close(None, 0, fd)  # a file object closes without os.close, and its number comes again
        if self._ours(path):
            self._inodes[fd] = os.fstat(fd).st_ino
            if flags & os.O_CREAT:
                self.log.append(("name", Path(path).name, self._inodes[fd]))
        elif isinstance(path, str | os.PathLike) and Path(path) == self._folder:
            self._folders.add(fd)

    def _write(self, count: int, before: int, fd: int, data: Any) -> None:
        if fd in self._inodes:
            self.log.append(("write", self._inodes[fd], before, bytes(memoryview(data).cast("B")[:count])))

    def _fsync(self, _: None, __: int, fd: int) -> None:
        if fd in self._inodes:
            self.log.append(("fsync", self._inodes[fd]))
        elif fd in self._folders:
            self.log.append(("fsync folder",))

    def _replace(self, _: None, __: int, source: Any, target: Any) -> None:
        if self._ours(target):
            self.log.append(("rename", Path(source).name, Path(target).name))

    _rename = _replace

    def _link(self, _: None, __: int, source: Any, target: Any, **___: Any) -> None:
        if self._ours(target):
            self.log.append(("name", Path(target).name, os.stat(target).st_ino))

    def _unlink(self, _: None, __: int, path: Any, **___: Any) -> None:
        if self._ours(path):
            self.log.append(("remove", Path(path).name))

    def _close(self, _: None, __: int, fd: int) -> None:
        self._inodes.pop(fd, None)
        self._folders.discard(fd)


@dataclass
class Disk:
    """What is safe, and what a power cut may lose."""

    data: dict[int, bytes] = field(default_factory=dict)  # by inode
    writes: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    changes: list[Operation] = field(default_factory=list)

    def apply(self, operation: Operation) -> None:
        match operation:
            case ("write", inode, offset, data):
                self.writes.setdefault(inode, []).append((offset, data))
            case ("fsync", inode):
                self.data[inode] = written(self.data.get(inode, b""), self.writes.pop(inode, []))
            case ("fsync folder",):
                for change in self.changes:
                    rename(self.names, change)
                self.changes = []
            case _:
                self.changes.append(operation)

    def after_a_cut(self, name: str) -> Iterator[bytes | None]:
        """Every content that `name` may have; None where it is not there."""
        for kept in range(len(self.changes) + 1):
            names = dict(self.names)
            for change in self.changes[:kept]:
                rename(names, change)
            if (inode := names.get(name)) is None:
                yield None
                continue
            safe, pending = self.data.get(inode, b""), self.writes.get(inode, [])
            yield safe
            yield written(safe, pending)
            for lost in range(len(pending)):
                yield written(safe, pending[:lost] + pending[lost + 1 :])


def written(content: bytes, writes: list[tuple[int, bytes]]) -> bytes:
    data = bytearray(content)
    for offset, part in writes:
        data.extend(bytes(max(0, offset - len(data))))
        data[offset : offset + len(part)] = part
    return bytes(data)


def rename(names: dict[str, int], change: Operation) -> None:
    match change:
        case ("name", name, inode):
            names[name] = inode
        case ("rename", source, target):
            names[target] = names.pop(source)
        case ("remove", name):
            names.pop(name, None)


def contents(log: list[Operation], start: Disk, name: str) -> tuple[set[bytes | None], set[bytes | None]]:
    """What `name` may lead to after a cut at any moment, and after one behind the last call."""
    seen, last = set(), set(start.after_a_cut(name))
    for operation in log:
        seen |= last
        start.apply(operation)
        last = set(start.after_a_cut(name))
    return seen | last, last


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"hidden_size": 64, "kv_channels": 16, "ffn_hidden_size": 96, "num_layers": 1, "padded_vocab_size": 384}
    return write_checkpoint(tmp_path_factory.mktemp("tiny") / "model", config=CONFIG | sizes)


def recorded(tiny: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Operation], Disk]:
    """The calls of a conversion to `out`, and the disk before it."""
    start = Disk()
    if out.exists():
        inode = out.stat().st_ino
        start = Disk({inode: out.read_bytes()}, names={out.name: inode})
    with monkeypatch.context() as patch:
        recorder = Recorder(out.parent, patch)
        convert(tiny, out, force=True, threads=1)
    return recorder.log, start


@pytest.mark.case("V4")
@pytest.mark.parametrize("old", [None, OLD], ids=["new", "replacing"])
def test_a_power_cut_leaves_the_old_state_or_the_whole_file(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes | None
) -> None:
    out = tmp_path / "x.gguf"
    if old is not None:
        out.write_bytes(old)
    log, start = recorded(tiny, out, monkeypatch)
    new = out.read_bytes()
    assert sum(operation[0] == "write" for operation in log) > 5
    seen, last = contents(log, start, out.name)
    assert seen == {old, new}
    assert last == {new}  # what was reported as done stays done


@pytest.mark.case("V4")
@pytest.mark.parametrize("lost", ["fsync", "fsync folder"])
def test_without_either_fsync_this_test_would_fail(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    out = tmp_path / "x.gguf"
    log, start = recorded(tiny, out, monkeypatch)
    new = out.read_bytes()
    seen, last = contents([operation for operation in log if operation[0] != lost], start, out.name)
    assert last != {new}
    assert (seen == {None, new}) == (lost == "fsync folder")
