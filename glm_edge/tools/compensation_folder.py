"""The folder of an error compensation, OUT.gptq, from which an interrupted run continues.

It holds the inputs of every matrix, the importance matrix of the same text, and each matrix when it is rounded; its
inputs go then. A journal says what is there, with hashes, and what it is for: it is replaced whole, after a rounded
matrix is on the disk. Inputs are not waited for: after a power cut their hash refuses them. Only a folder with such a
journal is used, and only files with the names below are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..convert.layout import Placed
from ..convert.source.files import StableFile, read_json
from ..convert.source.importance import Measured, encoded
from ..convert.source.inputs import Inputs
from ..convert.source.inputs import encoded as encoded_inputs
from ..convert.source.sources import file_digest
from ..convert.write import storage_errors
from ..errors import GlmEdgeError, IntegrityError, InvalidFileError, UsageError
from ..system.atomic_write import atomic_write
from ..system.safe_open import NO_FOLLOW

JOURNAL, IMATRIX, INPUTS, ROUNDED = "journal.json", "imatrix.gguf", ".inputs", ".rounded"
_OWN = re.compile(r"(journal\.json|imatrix\.gguf|blk\.\d+\.\w+\.weight\.(inputs|rounded))(\..*\.tmp)?", re.ASCII)


@dataclass
class _Journal:
    key: str  # what the folder is for
    tokens: int = 0  # that were read; 0 until all inputs are there
    inputs: dict[str, str] = field(default_factory=dict)  # SHA-256, by matrix
    rounded: dict[str, str] = field(default_factory=dict)  # of those that are done
    imatrix: str = ""  # SHA-256


class CompensationFolder:
    """The folder of one output.

    Args:
        key: what the result depends on; a folder of another key is not continued.
        force: whether files of another key are removed.

    Raises UsageError for a folder of others, or of another key; StorageError; IntegrityError for a damaged one.
    """

    def __init__(self, folder: Path, key: str, *, force: bool) -> None:
        self.path = folder
        self._whole: dict[str, StableFile] = {}  # matrices whose hash has been compared
        self.discarded = False  # whether --force discarded what was done
        with self._errors():
            self._journal = self._claimed(key, force=force)
        if self.tokens and file_digest(self._file(IMATRIX).path) != self._journal.imatrix:
            raise self._damaged(IMATRIX, "is not what was written")

    def _claimed(self, key: str, *, force: bool) -> _Journal:
        advice = "nothing in it was touched; move it away, or choose another output with --out"
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise UsageError(f"{self.path}: is not a folder, and --gptq needs one of this name; {advice}")
        self.path.mkdir(exist_ok=True)
        journal = self._read()
        if journal is None and any(not path.name.startswith(f"{JOURNAL}.") for path in self.path.iterdir()):
            raise UsageError(
                f"{self.path}: is there already, and no --gptq made it or its journal is damaged; {advice}"
            )
        if journal is not None and journal.tokens and journal.key != key:
            if not force:
                raise UsageError(
                    f"{self.path}: has what is done of another checkpoint, type or text; finish that, discard it with"
                    " --force, or choose another output with --out"
                )
            self.discarded = True
        if journal is None or journal.key != key:
            journal = _Journal(key)
        self._save(journal)
        if not journal.tokens:
            self._remove_files(keep=JOURNAL)  # of a run that was killed before all inputs were there, or is discarded
        return journal

    def _read(self) -> _Journal | None:
        if not (self.path / JOURNAL).is_file():
            return None
        try:
            found = _Journal(**read_json(self.path / JOURNAL))
            hashes = [*found.inputs.items(), *found.rounded.items()]
        except (InvalidFileError, TypeError, AttributeError):
            return None
        texts = [found.key, found.imatrix, *(text for pair in hashes for text in pair)]
        whole = type(found.tokens) is int and found.tokens >= 0 and all(isinstance(text, str) for text in texts)
        return found if whole else None

    def _save(self, journal: _Journal) -> None:
        atomic_write(self.path / JOURNAL, [json.dumps(asdict(journal)).encode()])

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return storage_errors(self.path, 0)

    @property
    def tokens(self) -> int:
        """That were read; 0 while the inputs are not there."""
        return self._journal.tokens

    @property
    def imatrix(self) -> Path:
        return self.path / IMATRIX

    @property
    def size(self) -> int:
        """Bytes of the files that are there."""
        with self._errors():
            return sum(path.lstat().st_size for path in self.path.iterdir())

    def keep_inputs(self) -> tuple[Callable[[str, NDArray[np.float32]], None], Callable[[Measured, str], None]]:
        """A function that takes the inputs of a product, and one that ends it with the importance matrix of a text."""
        hashes: dict[str, hashlib._Hash] = {}

        def keep(name: str, x: NDArray[np.float32]) -> None:
            data, path = encoded_inputs(x), self.path / f"{name}{INPUTS}"
            with self._errors(), open(path, "ab", opener=_open_no_link) as file:
                file.write(data)
            hashes.setdefault(name, hashlib.sha256()).update(data)

        def done(measured: Measured, text: str) -> None:
            with self._errors():
                atomic_write(self.imatrix, [encoded(measured, text)])
                self._journal.inputs = {name: one.hexdigest() for name, one in hashes.items()}
                self._journal.imatrix = file_digest(self.imatrix)
                self._journal.tokens = measured.tokens
                self._save(self._journal)

        return keep, done

    def inputs(self, placed: Placed) -> Inputs:
        """Those of a matrix that is not done."""
        name = placed.tensor.name
        file = self._file(f"{name}{INPUTS}")
        return Inputs(file, placed.tensor.columns, self._journal.inputs.get(name, ""))

    def add(self, placed: Placed, data: NDArray[np.uint8]) -> None:
        """Keep a matrix that is done, and remove its inputs."""
        name = placed.tensor.name
        with self._errors():
            atomic_write(self.path / f"{name}{ROUNDED}", [data.data.cast("B")])
            self._journal.rounded[name] = hashlib.sha256(data.data).hexdigest()
            self._save(self._journal)
            (self.path / f"{name}{INPUTS}").unlink(missing_ok=True)

    def rounded(self, placed: Placed) -> StableFile | None:
        """The data of a matrix, if it is done. Raises IntegrityError where it is not what was written."""
        name = placed.tensor.name
        if name in self._journal.rounded and name not in self._whole:
            file = self._file(f"{name}{ROUNDED}")
            if file_digest(file.path) != self._journal.rounded[name]:
                raise self._damaged(file.path.name, "is not what was written")
            self._whole[name] = file
        return self._whole.get(name)

    def _file(self, name: str) -> StableFile:
        """One that the journal says is there. Raises IntegrityError where it is not."""
        try:
            return StableFile.find(self.path / name)
        except GlmEdgeError:
            raise self._damaged(name, "is not there, or cannot be read") from None

    def _damaged(self, name: str, what: str) -> IntegrityError:
        return IntegrityError(f"{self.path / name}: {what}; remove {self.path} and begin again")

    def remove(self) -> None:
        """Remove what is ours, and the folder if nothing else is in it. What cannot be removed stays."""
        with contextlib.suppress(OSError):
            self._save(_Journal(self._journal.key))  # whoever finds the rest begins again
        with contextlib.suppress(OSError):
            self._remove_files(keep=JOURNAL)
            (self.path / JOURNAL).unlink(missing_ok=True)
            os.rmdir(self.path)

    def _remove_files(self, keep: str) -> None:
        for path in self.path.iterdir():
            if _OWN.fullmatch(path.name) and path.name != keep and (path.is_symlink() or not path.is_dir()):
                path.unlink()


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | NO_FOLLOW, 0o666)
