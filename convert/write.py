"""The output of a conversion: a file written over minutes, and put in place whole or not at all.

It is a temporary sibling until `commit` renames it: before that, the output is as it was. Any error, a signal's too,
removes the temporary. The next process removes what a killed one left, and a lock keeps a second one away. Small files
have `system/atomic_write.py`. Not here: what is written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from glm_edge.errors import StorageError, UsageError
from glm_edge.system.atomic_write import sync_folder
from glm_edge.system.direct_io import Stage
from glm_edge.system.file_lock import Lock
from glm_edge.system.safe_open import BINARY, NO_FOLLOW

RESULT = "result"  # the name of a file under construction in a folder of its own


def check_output(path: Path, inputs: tuple[Path, ...], *, force: bool) -> None:
    """Raises UsageError or StorageError when `path` cannot become a new file; reads nothing."""
    try:
        if any(path.exists() and path.samefile(other) for other in inputs):
            raise UsageError(f"{path}: the output is one of the input files; choose another with --out")
        if path.is_dir():
            raise UsageError(f"{path}: the output is a folder; give a file name with --out")
        if (path.exists() or path.is_symlink()) and not path.is_file():
            raise UsageError(f"{path}: the output exists and is not a regular file; choose another with --out")
        if path.exists() and not force:
            raise UsageError(f"{path}: the output exists; --force replaces it, --out chooses another")
        if not path.parent.is_dir():
            raise StorageError(f"{path}: its folder does not exist; create {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise StorageError(f"{path}: its folder {path.parent} is not writable")
    except OSError as error:  # names too long, loops of links, folders that cannot be searched
        raise StorageError(f"{path}: cannot be the output: {error.strerror}") from error


def check_space(path: Path, size: int) -> None:
    """Raises StorageError when the disk of `path` has less than `size` bytes free."""
    with storage_errors(path, size):
        free = shutil.disk_usage(path.parent).free
    if free < size:
        raise StorageError(f"{path}: needs {amount(size)} and the disk has {amount(free)} free")


def amount(size: int) -> str:
    """Bytes as a message shows them."""
    return f"{size / 1e9:.3f} GB" if size >= 10**9 else f"{size / 1e6:.3f} MB"


@contextlib.contextmanager
def storage_errors(path: Path, size: int) -> Iterator[None]:
    """Turns an OSError within the block into the StorageError of an output that takes `size` bytes."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, size, error) from error


def unwritable(path: Path, size: int, error: OSError) -> StorageError:
    """The error for an output; on a full disk it says how many bytes are needed."""
    advice = f"; the file needs {amount(size)} in all" if error.errno in (errno.ENOSPC, errno.EDQUOT) and size else ""
    return StorageError(f"{path}: cannot be written: {error.strerror or error}{advice}")


class OutputFile:
    """The output under construction. Used as a context manager; `commit` comes last.

    Every OSError of its own becomes a StorageError that names the output and, on a full disk, the bytes it needs.

    Args:
        size: bytes of the finished file; 0 where they are not known yet.
        folder: where the file lies as `result` and stays when the block is left, so that a later run continues it;
            None for a temporary sibling.
    """

    def __init__(self, path: Path, size: int, folder: Path | None = None) -> None:
        self.path = path
        self.size = size
        self._folder = folder
        self._fd = -1
        self._stage: Stage
        self._old: Path | None = None  # a second name of the file that the rename replaces
        self._stem = _stem(path.name)
        self._lock: Lock | None = None
        self.temporary = path.with_name(f".{self._stem}.{os.getpid()}.tmp") if folder is None else folder / RESULT

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turns an OSError of other work within the block into the StorageError of this output."""
        try:
            yield
        except OSError as error:
            raise unwritable(self.path, self.size, error) from error

    def __enter__(self) -> OutputFile:
        self._stage = Stage()
        with storage_errors(self.path, self.size):
            self._lock = Lock(self.path.with_name(f".{self._stem}.lock"), self.path)
            try:
                if self._lock.held:
                    self._remove_stale()
                self._fd = self._open()
                self._stage.begin(self._fd)
            except BaseException:
                self._lock.release()
                raise
        return self

    def _remove_stale(self) -> None:
        """Remove what killed processes left: while we hold the lock, every temporary of this output is theirs."""
        stale = re.compile(re.escape(f".{self._stem}.") + r"\d+\.(tmp|old)")
        for name in os.listdir(self.path.parent):
            if stale.fullmatch(name):
                self.path.with_name(name).unlink(missing_ok=True)

    def _open(self) -> int:
        if self._folder is None:
            return os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
        self._folder.mkdir(exist_ok=True)
        return os.open(self.temporary, os.O_WRONLY | os.O_CREAT | NO_FOLLOW | BINARY, 0o666)

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`."""
        with storage_errors(self.path, self.size):
            self._stage.write(memoryview(data).cast("B"))

    def seek(self, offset: int) -> None:
        """Make the next `write` begin at `offset`."""
        with storage_errors(self.path, self.size):
            self._stage.seek(offset)

    def resize(self, size: int) -> None:
        """Make the file `size` bytes long: cut the rest, or fill up with zeros."""
        with storage_errors(self.path, self.size):
            self._stage.flush()
            os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """Send what has been written to the disk."""
        with storage_errors(self.path, self.size):
            self._stage.flush()
            os.fsync(self._fd)

    def finish(self) -> None:
        """Send everything to the disk and close, so that it can be read back."""
        self.sync()
        with storage_errors(self.path, self.size):
            fd, self._fd = self._fd, -1
            os.close(fd)

    def commit(self) -> None:
        """Rename the file to the output, durably. If that fails, the output is as it was before."""
        with storage_errors(self.path, self.size):
            existed = self.path.exists()
            if existed:
                self._keep_old()
            try:
                os.replace(self.temporary, self.path)
                sync_folder(self.path.parent)
            except BaseException:
                if self._old is not None:
                    os.replace(self._old, self.path)
                elif not existed and self.path.exists():
                    os.replace(self.path, self.temporary)  # a pull continues with it
                raise

    def _keep_old(self) -> None:
        """Link the old file to a second name, to restore it if the fsync after the rename fails."""
        old = self.temporary.with_suffix(".old")
        # Where there are no links, as on many memory cards, the new file stays: whole, but maybe lost in a power cut.
        with contextlib.suppress(OSError):
            old.unlink(missing_ok=True)
            os.link(self.path, old)
            self._old = old

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # the error on its way says more
                os.close(self._fd)
        for path in (self.temporary if self._folder is None else None, self._old):
            with contextlib.suppress(OSError):
                if path is not None:
                    path.unlink(missing_ok=True)
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.release()


def _stem(name: str) -> str:
    """`name`, or a shorter one where its temporary would pass the 255 bytes that a name may have."""
    if len(os.fsencode(name)) <= 200:
        return name
    return f"{name[:40]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
