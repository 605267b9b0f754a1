"""Reading and writing past the page cache gives the same bytes as the plain way, whatever the offsets and sizes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from glm_edge.convert.convert import convert
from glm_edge.system.direct_io import ALIGN, LEAST, Stage, read_block


@pytest.fixture(params=["direct", "plain"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways; the second is that of systems without O_DIRECT and RWF_NOWAIT."""
    if request.param == "plain":
        for name in ("O_DIRECT", "RWF_NOWAIT", "preadv"):
            monkeypatch.delattr(os, name, raising=False)
        monkeypatch.setitem(sys.modules, "fcntl", None)  # importing it is an error, as on Windows
    return str(request.param)


def forget(path: Path) -> None:
    """Drop the file's pages from the cache, where the system lets us."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "not_cached"])
def test_any_range_is_read_as_it_is(tmp_path: Path, either: str, cached: bool) -> None:
    content = random.Random(1).randbytes(5 * LEAST + 1234)
    path = tmp_path / "x"
    path.write_bytes(content)
    draw = random.Random(2)
    with open(path, "rb", buffering=0) as file:
        for size in (0, 1, ALIGN, LEAST - 1, LEAST, LEAST + 1, 3 * LEAST, len(content)):
            for offset in (0, 64, ALIGN, ALIGN + 1, draw.randrange(len(content)), len(content) - 1, len(content) + 5):
                if not cached:
                    forget(path)
                block = read_block(file, offset, size)
                assert block.tobytes() == content[offset : offset + size]
                if len(block):
                    assert block.ctypes.data % ALIGN == offset % ALIGN


@pytest.mark.parametrize("seed", range(5))
def test_any_writes_and_seeks_leave_what_plain_ones_leave(tmp_path: Path, either: str, seed: int) -> None:
    draw = random.Random(seed)
    path, expected, position = tmp_path / "x", bytearray(), 0
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    stage = Stage(1 << 16)
    stage.begin(fd)
    for _ in range(150):
        if draw.random() < 0.2:
            position = draw.randrange(1 << 19)
            stage.seek(position)
        data = draw.randbytes(draw.choice((0, 1, 100, ALIGN, 70_000, 1 << 17)))
        stage.write(memoryview(data))
        expected.extend(bytes(max(0, position + len(data) - len(expected))))
        expected[position : position + len(data)] = data
        position += len(data)
    stage.flush()
    os.close(fd)
    found = path.read_bytes()
    assert found == bytes(expected[: len(found)])
    assert not any(expected[len(found) :])


def test_a_file_system_that_refuses_is_written_the_plain_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "O_DIRECT"):
        pytest.skip("this system has no O_DIRECT")
    import fcntl

    real = os.write

    def write(fd: int, data: Any) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    content = random.Random(3).randbytes(300_001)
    fd = os.open(tmp_path / "x", os.O_WRONLY | os.O_CREAT)
    stage = Stage(1 << 16)
    stage.begin(fd)
    stage.write(memoryview(content))
    stage.flush()
    os.close(fd)
    assert (tmp_path / "x").read_bytes() == content


def test_sources_are_hashed_whole_whatever_is_read_of_them(small_checkpoint: Path, tmp_path: Path, either: str) -> None:
    field = GGUFReader(convert(small_checkpoint, tmp_path / "x.gguf", threads=3).path).fields["glm_edge.sources"]
    sources = json.loads(bytes(field.parts[field.data[0]]))
    assert len(sources) >= 3
    for name, size, digest in sources:
        content = (small_checkpoint / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digest)
