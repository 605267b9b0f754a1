"""Models by name: which model files are known, what they are called, and where a name leads.

A model's name is its file's without .gguf. Known are the files here and in ./models, the default model and its
neighbours, what `convert`, `pull` and `use` noted in the config folder, and the demo. Not here: what a file holds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import platformdirs

from ..errors import GlmEdgeError, StorageError, UsageError
from ..system.atomic_write import atomic_write
from ..system.default_model import read_default
from ..system.private import make_folder
from ..system.safe_open import read_file

DEMO = "demo"
SUFFIX = ".gguf"
_MOST = 1000  # paths that are noted; the oldest go
_BYTES = 1 << 22


@dataclass(frozen=True)
class KnownModel:
    """A model file and its name."""

    name: str
    path: Path


def notes_path() -> Path:
    """The file that lists the models made or chosen by this user, a path a line."""
    return Path(platformdirs.user_config_dir("glm-edge", appauthor=False)) / "models"


def known_models() -> list[KnownModel]:
    """All that have a name, the demo left out; each file once. A note of a file that is not there is skipped."""
    found: dict[Path, KnownModel] = {}
    folders = [Path("models"), Path()]
    paths = _noted()
    try:
        if (default := read_default()) is not None:
            paths.append(default.model)
            folders.append(default.model.parent)  # a bundle may bring several
    except GlmEdgeError:  # the verb that needs the default says so
        pass
    for path in [path for folder in folders for path in _files(folder)] + paths:
        if path.suffix == SUFFIX and _is_file(path):
            found.setdefault(path.resolve(), KnownModel(path.name.removesuffix(SUFFIX), Path(os.path.abspath(path))))
    return sorted(found.values(), key=lambda model: (model.name, model.path))


def find_model(given: Path) -> Path:
    """The file that a path or a name leads to; a path that is no name comes back as it is, there or not.

    Raises StorageError for a name that no model has, UsageError for one that several have.
    """
    if _is_file(given):
        return given
    if not _is_name(given):
        _check_elsewhere(given)
        return given
    if given.name == DEMO:
        from .demo import demo_model

        return demo_model()
    models = known_models()
    found = [model.path for model in models if model.name == given.name]
    if len(found) > 1:
        raise UsageError(f"{given}: several models have this name; give the path: {', '.join(map(str, found))}")
    if found:
        return found[0]
    if given.exists():
        return given
    near = get_close_matches(given.name, [DEMO, *(model.name for model in models)], 1)
    hint = f"did you mean {near[0]}?" if near else "glm-edge list shows those that are there"
    raise StorageError(f"{given}: there is no such file, and no model of this name; {hint}")


def _check_elsewhere(given: Path) -> None:
    """Raise StorageError, with the name to use, for the file name of a model that is in another folder."""
    if given.suffix == SUFFIX and str(given) == given.name and not given.exists():
        for model in known_models():
            if model.path.name == given.name:
                raise StorageError(f"{given}: there is no such file here; did you mean {model.name}, {model.path}?")


def note_model(path: Path) -> None:
    """Remember a model's name over folders. Raises StorageError."""
    path = Path(os.path.abspath(path))
    if path not in (noted := _noted()):
        _write([*noted, path][-_MOST:])


def forget_model(path: Path) -> None:
    """Drop what `note_model` noted. Raises StorageError."""
    path = Path(os.path.abspath(path))
    if path in (noted := _noted()):
        _write([other for other in noted if other != path])


def _is_name(given: Path) -> bool:
    return given.suffix != SUFFIX and given.name not in ("", "..") and str(given) == given.name


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob(f"*{SUFFIX}"))
    except OSError:
        return []


def _noted() -> list[Path]:
    try:
        lines = read_file(notes_path(), _BYTES).splitlines()
    except GlmEdgeError:  # none yet, or not ours: names are a convenience
        return []
    paths = [Path(os.fsdecode(line)) for line in lines if line and b"\0" not in line]
    return [path for path in paths if path.is_absolute()]


def _write(paths: list[Path]) -> None:
    lines = [os.fsencode(path) for path in paths]
    try:
        make_folder(notes_path().parent)
        atomic_write(notes_path(), [b"%s\n" % line for line in lines if b"\n" not in line])
    except OSError as error:
        raise StorageError(f"{notes_path()}: cannot be written: {error.strerror}") from error
