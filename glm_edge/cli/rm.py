"""`glm-edge rm`: remove a model file that GLM Edge made, with the prefixes beside it. Nothing else is ever removed."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

import click

from ..errors import GlmEdgeError, InvalidFileError, StorageError, UsageError
from .model import complete_models
from .names import DEMO, SUFFIX, find_model, forget_model
from .progress import is_terminal


@click.command("rm")
@click.argument("model", type=click.Path(path_type=Path), shell_complete=complete_models)
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(model: Path, yes: bool) -> None:
    """Remove MODEL, a name that `glm-edge list` shows or a path, and its prefixes.

    Only a .gguf file that GLM Edge made or that lies in ./models. Asks before, unless --yes is given.
    """
    from ..engine.prefix_cache.store_file import bundled_folder

    if str(model) == DEMO and not model.is_file():
        raise UsageError("demo: comes with GLM Edge and is not removed")
    path = Path(os.path.abspath(find_model(model)))
    size = _check(path)
    prefixes = bundled_folder(path)
    files = [file for file in prefixes.glob("*.prefix") if file.is_file() and not file.is_symlink()]
    also = f", and {len(files)} saved prefixes" if files else ""
    click.echo(f"{path}: {size / 1e6:,.1f} MB{also}", err=True)
    if not yes:
        if not is_terminal(sys.stdin):
            raise UsageError("nobody is there to say yes; repeat with --yes")
        if not click.confirm("Remove it?", default=False, err=True):
            click.echo("nothing was done", err=True)
            return
    try:
        path.unlink()
        for file in files:
            file.unlink()
    except OSError as error:
        raise StorageError(f"{error.filename}: cannot be removed: {error.strerror}") from error
    with contextlib.suppress(OSError):  # not there, or with files of others
        prefixes.rmdir()
    click.echo(f"removed {path}")
    _forget(path)


def _check(path: Path) -> int:
    """The size of a file that may be removed; raises for every other one."""
    try:
        status = path.lstat()
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or path.suffix != SUFFIX:
        raise InvalidFileError(f"{path}: is no {SUFFIX} file but a link, a folder or another file; nothing was done")
    if path.parent.resolve() != Path("models").resolve() and not _is_ours(path):
        raise InvalidFileError(f"{path}: was not made by GLM Edge and is not in ./models; remove it yourself")
    return status.st_size


def _is_ours(path: Path) -> bool:
    from ..model import keys
    from ..model.gguf import read_gguf

    try:
        return keys.VERSION in read_gguf(path).metadata
    except GlmEdgeError:
        return False


def _forget(path: Path) -> None:
    """Drop a removed model from the names, and from being the default."""
    from ..system.default_model import entry_path, read_default

    forget_model(path)
    default = read_default()
    if default is None or default.model != path:
        return
    if default.entry == entry_path():
        default.entry.unlink(missing_ok=True)
        click.echo("it was the default model; choose another: glm-edge use NAME", err=True)
    else:
        click.echo(f"warning: it is the default model of this machine, by {default.entry}", err=True)
