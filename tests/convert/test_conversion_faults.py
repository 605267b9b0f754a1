"""Whatever goes wrong while a file is written: the output's name holds what it held, and no temporary file is left."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_edge.convert.convert import convert
from glm_edge.errors import IntegrityError, OutOfMemoryError, StorageError
from support.paths import PROJECT

CALLS = ("open", "write", "fsync", "close", "replace")


class Disk:
    """The system's calls on one folder, counted; the `fail_at`-th of them fails with `code`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int = 0, code: int = 0) -> None:
        self.count = 0
        self.failed = ""
        self._folder, self._fail_at, self._code = str(folder), fail_at, code
        self._fds: set[int] = set()
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *args: Any, **options: Any) -> Any:
            ours = target in self._fds if isinstance(target, int) else str(target).startswith(self._folder)
            if not ours:
                return real(target, *args, **options)
            self.count += 1
            if name == "close":  # a failed close has closed nevertheless
                self._fds.discard(target)
                real(target)
            if self.count == self._fail_at:
                self.failed = name
                raise OSError(self._code, os.strerror(self._code))
            if name == "close":
                return None
            result = real(target, *args, **options)
            if name == "open":
                self._fds.add(result)
            return result

        return call


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "x.gguf"


@pytest.mark.case("V1")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("old", [None, b"the old file"], ids=["new", "replacing"])
def test_a_failure_of_any_call_leaves_the_old_state(
    small_checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch, code: int, old: bytes | None
) -> None:
    with monkeypatch.context() as patch:
        disk = Disk(out.parent, patch)
        convert(small_checkpoint, out)
        out.unlink()
    failed = set()
    for k in range(1, disk.count + 1):
        if old is not None:
            out.write_bytes(old)
        with monkeypatch.context() as patch:
            disk = Disk(out.parent, patch, k, code)
            with pytest.raises(StorageError) as caught:
                convert(small_checkpoint, out, force=True)
        assert str(caught.value).startswith(f"{out}: ")
        if "cannot be read back" not in str(caught.value):
            assert ("needs" in str(caught.value)) == (code == errno.ENOSPC)
        assert list(out.parent.iterdir()) == ([] if old is None else [out])
        assert old is None or out.read_bytes() == old
        failed.add(disk.failed)
    assert failed == set(CALLS)


@pytest.mark.case("V1")
def test_without_hard_links_the_new_file_stays_whole(
    small_checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on FAT: where the folder's fsync fails after the rename, the old file cannot come back."""
    expected = convert(small_checkpoint, out).path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", _no_links)
        disk = Disk(out.parent, patch)
        convert(small_checkpoint, out, force=True)
    out.write_bytes(b"the old file")
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", _no_links)
        Disk(out.parent, patch, disk.count - 1, errno.EIO)
        with pytest.raises(StorageError):
            convert(small_checkpoint, out, force=True)
    assert out.read_bytes() == expected
    assert list(out.parent.iterdir()) == [out]


def _no_links(*_: Any) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.case("V2")
def test_short_writes_change_nothing(small_checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = convert(small_checkpoint, out).path.read_bytes()
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, memoryview(data)[: 1 + len(data) // 3]))
        convert(small_checkpoint, out, force=True)
    assert out.read_bytes() == expected


@pytest.mark.parametrize("position", [0, 3000, -40], ids=["magic", "tokens", "last_weights"])
def test_a_file_that_does_not_read_back_gets_no_name(
    small_checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    size = convert(small_checkpoint, out).size
    out.unlink()
    at, real = position % size, os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        for path in out.parent.glob(".*.tmp"):
            content = bytearray(path.read_bytes())
            content[at] ^= 0x55
            path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(IntegrityError, match="read back"):
            convert(small_checkpoint, out)
    assert list(out.parent.iterdir()) == []


@pytest.mark.case("V5")
def test_an_interrupt_while_weights_are_written_leaves_nothing(small_checkpoint: Path, out: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(small_checkpoint, out, progress=interrupt)
    assert list(out.parent.iterdir()) == []


# Stops where the file is whole but has no name yet, and says so; a signal then finds it there.
CHILD = """
import os, signal, sys
def fsync(fd):
    print("ready", flush=True)
    signal.pause()
os.fsync = fsync
sys.argv[0] = "convert"
{start}
"""
STARTS = {
    "module": "import runpy; runpy.run_module('convert', run_name='__main__')",
    "verb": "sys.argv.insert(1, 'convert'); from glm_edge.cli import main; main()",
}


@pytest.mark.case("V5")
@pytest.mark.skipif(os.name == "nt", reason="signals are another thing on Windows")
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"])
def test_signals_end_the_command_with_their_code(
    small_checkpoint: Path, out: Path, start: str, number: signal.Signals, code: int
) -> None:
    out.write_bytes(b"old")
    command = [sys.executable, "-c", CHILD.format(start=start), str(small_checkpoint), "--out", str(out), "--force"]
    where = PROJECT if "run_module" in start else out.parent  # `python -m convert` is for checkouts
    with subprocess.Popen(
        command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert len(list(out.parent.iterdir())) == 3  # the old file, the new one, the lock
        child.send_signal(number)
        _, errors = child.communicate(timeout=20)
    assert child.returncode == code
    assert "Traceback" not in errors
    assert list(out.parent.iterdir()) == [out]
    assert out.read_bytes() == b"old"


@pytest.mark.case("V10")
def test_no_memory_at_any_row_block_is_exit_7(
    small_checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, state = np.empty, {"count": 0, "fail_at": 0}

    def empty(*args: Any, **options: Any) -> Any:
        state["count"] += 1
        if state["count"] == state["fail_at"]:
            raise MemoryError
        return real(*args, **options)

    monkeypatch.setattr(np, "empty", empty)
    convert(small_checkpoint, out)
    out.write_bytes(b"old")
    for k in range(1, state["count"] + 1, 7):
        state |= {"count": 0, "fail_at": k}
        with pytest.raises(OutOfMemoryError, match="not enough memory"):
            convert(small_checkpoint, out, force=True)
        assert list(out.parent.iterdir()) == [out]
        assert out.read_bytes() == b"old"
