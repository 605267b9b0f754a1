"""The default model: the file that commands run when none is named, as a path in a file of one line.

A user has one in the config folder, the machine one for all in /etc/glm-edge; the user's goes first. install.sh of a
bundle writes it, and so do `glm-edge use` and the first conversion. Without any, commands run the demo model.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ..errors import InvalidFileError, StorageError, UsageError
from .atomic_write import atomic_write
from .private import make_folder
from .safe_open import read_file

_NAME = "default-model"
_DEMO = b"demo"  # instead of a path: the demo model, whatever the machine's entry says
_BYTES = 1 << 14
_EVERYONE = Path("/etc/glm-edge")  # also what the service of `glm-edge service` takes for its config folder


@dataclass(frozen=True)
class DefaultModel:
    """A default model and the entry that names it."""

    model: Path
    entry: Path


def entry_path(*, everyone: bool = False) -> Path:
    """The file of this user's entry, or of the machine's."""
    if everyone:
        return _EVERYONE / _NAME
    return Path(platformdirs.user_config_dir("glm-edge", appauthor=False)) / _NAME


def read_default() -> DefaultModel | None:
    """The default model, which may be gone; None where nobody chose one.

    Raises InvalidFileError for an entry that names none, StorageError for one that cannot be read.
    """
    for entry in (entry_path(), entry_path(everyone=True)):
        if not os.path.lexists(entry):
            continue
        line = read_file(entry, _BYTES).partition(b"\n")[0]
        if line == _DEMO:
            return None
        model = Path(os.fsdecode(line))
        if not model.is_absolute():
            raise InvalidFileError(f"{entry}: names no model; remove it, or name a model with --model FILE")
        return DefaultModel(model, entry)
    return None


def write_default(model: Path | None, entry: Path) -> None:
    """Make a model the default; None: the demo. Raises UsageError for a path that is no line, StorageError."""
    text = _DEMO if model is None else os.fsencode(model)
    if model is not None and (not model.is_absolute() or b"\n" in text):
        raise UsageError(f"{model}: a default model is named by its whole path, without line ends")
    try:
        if entry.parent == _EVERYONE:
            entry.parent.mkdir(mode=0o755, exist_ok=True)
        else:
            make_folder(entry.parent)
        atomic_write(entry, [text + b"\n"])
        entry.chmod(0o644 if entry.parent == _EVERYONE else 0o600)
    except OSError as error:
        raise StorageError(f"{entry}: cannot be written: {error.strerror}") from error
