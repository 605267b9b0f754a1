"""The model file that a command runs: the one named, the default model, or the demo model."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import GlmEdgeError, InvalidFileError, StorageError

model_option = click.option(
    "--model", type=click.Path(path_type=Path), help="The GGUF file.  [default: the default model, or else the demo]"
)


def resolve_model(path: Path | None) -> Path:
    """The GGUF file to load: the one named, else the default model, which a line on stderr says, else the demo model.

    Raises InvalidFileError when a folder was named or the default is no path, StorageError when the file is not there.
    """
    if path is None:
        from ..system.default_model import read_default
        from .demo import demo_model

        default = read_default()
        if default is None:
            return demo_model()
        if not default.model.is_file():
            raise StorageError(
                f"{default.model}: the default model is gone; put it back, name another with --model FILE, or remove"
                f" {default.entry} for the demo model"
            )
        click.echo(f"the default model: {default.model}", err=True)
        return default.model
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
