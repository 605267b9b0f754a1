"""`glm-edge use`: choose the default model, which commands take where none is named."""

from __future__ import annotations

import os
from pathlib import Path

import click

from .model import complete_models, warn_if_named
from .names import DEMO, note_model


@click.command("use")
@click.argument("model", type=click.Path(path_type=Path), shell_complete=complete_models)
def command(model: Path) -> None:
    """Make MODEL, a name that `glm-edge list` shows or a path, the default of your commands. "demo" is the demo."""
    from ..model.checks import check_model
    from ..model.gguf import read_gguf
    from ..system.default_model import entry_path, write_default
    from .model import resolve_model

    if str(model) == DEMO and not model.is_file():
        write_default(None, entry_path())
        click.echo("the default model: the demo")
        return
    path = Path(os.path.abspath(resolve_model(model)))
    check_model(read_gguf(path))
    write_default(path, entry_path())
    note_model(path)
    click.echo(f"the default model: {path}")
    warn_if_named()
