"""The model file that a command runs: the one named, or the demo model."""

from __future__ import annotations

from pathlib import Path

from ..errors import GlmEdgeError, InvalidFileError, StorageError


def resolve_model(path: Path | None) -> Path:
    """The GGUF file to load: the one named, or the demo model.

    Raises InvalidFileError when a folder was named, StorageError when the file is not there.
    """
    if path is None:
        from .demo import demo_model

        return demo_model()
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        hint = f"name a GGUF file in it, as {found[0] if found else path / 'NAME.gguf'}"
        if (path / "config.json").exists():
            hint = f"convert it first: glm-edge convert {path}"
        raise InvalidFileError(f"{path}: is a folder, not a model file; {hint}")
    if not path.exists():
        raise StorageError(f"{path}: there is no such file")
    return path


def cache_folder(wanted: bool) -> Path | None:
    """The folder that keeps computed prefixes over restarts, in the user's cache folder; None if not wanted."""
    if not wanted:
        return None
    import platformdirs

    return Path(platformdirs.user_cache_dir("glm-edge", appauthor=False)) / "prefixes"


def cache_secret(folder: Path | None) -> bytes | None:
    """The secret of the cache folder; None without one, and where the folder cannot be used, as the engine will say."""
    from ..system.private import folder_key

    try:
        return None if folder is None else folder_key(folder)
    except (GlmEdgeError, OSError):
        return None
