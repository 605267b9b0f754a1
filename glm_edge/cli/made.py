"""What `convert` and `pull` say and do when a model is there: its name is noted, the first becomes the default."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..errors import GlmEdgeError
from ..system.default_model import entry_path, read_default, write_default
from .names import note_model


def welcome(path: Path) -> None:
    """Note a new model, make it the default where there is none, and say the next command.

    The model is there whatever happens here: what cannot be written is a warning.
    """
    path = Path(os.path.abspath(path))
    is_default = False
    try:
        note_model(path)
        old = read_default()
        is_default = old is not None and old.model == path
        if old is None or not old.model.is_file():
            write_default(path, entry_path())
            is_default = True
            click.echo("it is the default model now", err=True)
    except GlmEdgeError as error:
        click.echo(f"warning: {error}", err=True)
    click.echo("next: glm-edge chat" if is_default else f"next: glm-edge chat --model {path.stem}", err=True)
