"""Opens the files of a checkpoint folder: regular files inside it and nothing else, without ever waiting for one.

It says what a file is instead when a download went wrong (a git-lfs pointer, an HTML page), and notices a file that
changes between two reads. JSON is read strictly. Not here: what the content means.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_edge.errors import IntegrityError, InvalidFileError, StorageError
from glm_edge.system import strict_json
from glm_edge.system.direct_io import read_block
from glm_edge.system.safe_open import failed_download, safe_open, unreadable

MAX_JSON = 4 << 20  # bytes; the index of the real checkpoint has 20 KB
MOST_LISTED = 20  # problems named in one error


def names_in(folder: Path, what: str) -> list[str]:
    """The names in a folder; `what` should be in it, says the error.

    Raises StorageError if it is missing or cannot be read, InvalidFileError if it is no folder.
    """
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        raise StorageError(f"{folder}: no such folder; give the folder of {what}") from None
    except NotADirectoryError:
        raise InvalidFileError(f"{folder}: is not a folder; give the folder of {what}") from None
    except OSError as error:
        raise unreadable(folder, error) from error


def inside(folder: Path, name: str) -> Path:
    """The path of a checkpoint's file. Links may not lead out of the folder.

    A folder of the Hugging Face cache holds links into its sibling `blobs` (`REPO/snapshots/REVISION`, `REPO/blobs`);
    these are followed too. Raises InvalidFileError for a link that leads elsewhere.
    """
    path = folder / name
    home, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(real.is_relative_to(allowed) for allowed in homes):
        raise InvalidFileError(f"{path}: a link that leads out of the folder; put the file itself there")
    return path


def open_source(path: Path) -> io.FileIO:
    """`safe_open` for a file that a checkpoint must have. Raises InvalidFileError where it is missing."""
    try:
        return safe_open(path)
    except FileNotFoundError:
        raise InvalidFileError(f"{path}: is missing") from None


@dataclass(frozen=True)
class StableFile:
    """A file that is read block by block over minutes, and must stay the same meanwhile.

    Every read opens it anew: no file stays open between reads, and threads share no position. Blocks are read with
    `system/direct_io.py`, not mapped: the pages of a memory map would count as memory of the process.
    """

    path: Path
    size: int  # bytes
    stamp: tuple[int, int, int]  # inode, size and time of the last change

    @classmethod
    def find(cls, path: Path) -> StableFile:
        """Raises as `open_source` does."""
        with open_source(path) as file:
            stamp = _stamp(file)
        return cls(path, stamp[1], stamp)

    def read(self, offset: int, size: int) -> memoryview:
        """`size` bytes from `offset` on, which the caller knows to lie in the file. The bytes are read-only.

        Raises IntegrityError when the file is no longer the one that was found, StorageError when it cannot be read.
        """
        with open_source(self.path) as file:
            try:
                block = read_block(file, offset, size).data.toreadonly()
            except OSError as error:
                raise unreadable(self.path, error) from error
            if len(block) < size or _stamp(file) != self.stamp:
                raise IntegrityError(f"{self.path}: changed while it was read; start again when it is complete")
        return block


def _fill(path: Path, file: io.FileIO, buffer: memoryview) -> int:
    """Read until `buffer` is full or the file ends; returns the number of bytes. Raises StorageError."""
    done = 0
    try:
        while done < len(buffer) and (count := file.readinto(buffer[done:])):
            done += count
    except OSError as error:
        raise unreadable(path, error) from error
    return done


def _stamp(file: io.FileIO) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_small(path: Path, limit: int) -> bytes:
    """A file of at most `limit` bytes, whole. Raises InvalidFileError if it is larger or a failed download."""
    content = bytearray(limit + 1)
    with open_source(path) as file:
        content = content[: _fill(path, file, memoryview(content))]
    if len(content) > limit:
        raise InvalidFileError(f"{path}: is larger than {limit} bytes, which is no {path.name} of a checkpoint")
    refuse_download_error(path, bytes(content[:512]))
    return bytes(content)


def refuse_download_error(path: Path, head: bytes) -> None:
    """Raise InvalidFileError if `head`, the first bytes of a file, is what a failed download leaves behind."""
    if what := failed_download(head):
        raise InvalidFileError(f"{path}: {what}")


def read_json(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """The object that a JSON file holds, read strictly. Raises InvalidFileError."""
    return parse_json(read_small(path, limit), path)


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """The object that `content`, of the file at `path`, holds. Raises InvalidFileError."""
    try:
        value = strict_json.loads(content)
    except strict_json.JsonError as error:
        raise InvalidFileError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise InvalidFileError(f"{path}: holds {type(value).__name__} where an object is expected")
    return value


def is_plain(name: str) -> bool:
    """Whether a message may show a name as it is: one line, no control characters, at most 256 characters."""
    return 0 < len(name) <= 256 and name.isprintable()


def shown(value: object) -> str:
    """A value of a file as a message shows it: quoted, on one line, at most 80 characters.

    Of a list or dict it shows the length alone, because its text can have any length.
    """
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        value = value[:160]
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def raise_all(where: Path, problems: list[str]) -> None:
    """Raise one InvalidFileError that lists the first 20 problems; return if there are none."""
    if not problems:
        return
    rest = f"; and {len(problems) - MOST_LISTED} more" if len(problems) > MOST_LISTED else ""
    head = f"{len(problems)} problems: " if len(problems) > 1 else ""
    raise InvalidFileError(f"{where}: {head}{'; '.join(problems[:MOST_LISTED])}{rest}")
