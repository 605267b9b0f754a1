"""`glm-edge list`: the models that can be named, and which is the default."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from ..errors import GlmEdgeError
from .model import warn_if_named
from .names import DEMO, KnownModel, known_models
from .terminal.markdown import harmless


@dataclass(frozen=True)
class Row:
    """What `list` says of a model; `problem` where its file cannot be read."""

    name: str
    type: str
    bytes: int
    context: int
    path: str
    default: bool
    problem: str = ""


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead.")
def command(as_json: bool) -> None:
    """The models that --model and `use` take by name: those here and in ./models, and those made before.

    The one with a * is the default. "demo" is the demo model, which is always there.
    """
    from ..system.default_model import read_default

    default = read_default()
    models = known_models()
    rows = [_row(model, default is not None and _same(default.model, model.path)) for model in models]
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], ensure_ascii=False))
        return
    lines = [("", "NAME", "TYPE", "SIZE", "CONTEXT", "WHERE")]
    for row in rows:
        size = f"{row.bytes / 1e9:.2f} GB" if row.bytes >= 1e7 else f"{row.bytes / 1e6:.2f} MB"
        lines.append(("*" * row.default, row.name, row.type or "?", size, str(row.context or "?"), row.path))
    lines.append(("*" * (default is None), DEMO, "f16", "", "", "comes with GLM Edge"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        row_text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo(harmless(row_text.replace("\n", "?")).rstrip())
    for row in rows:
        if row.problem:
            click.echo(f"warning: {harmless(row.problem)}", err=True)
    warn_if_named()
    if default is not None and not any(row.default for row in rows):
        click.echo(f"warning: {default.model}: the default model is gone; choose one: glm-edge use NAME", err=True)


def _row(model: KnownModel, default: bool) -> Row:
    from ..model.checks import check_model, context_length, model_type
    from ..model.gguf import read_gguf

    try:
        size = model.path.stat().st_size
        file = read_gguf(model.path)
        check_model(file)
    except OSError as error:
        return Row(model.name, "", 0, 0, str(model.path), default, f"{model.path}: {error.strerror}")
    except GlmEdgeError as error:
        return Row(model.name, "", size, 0, str(model.path), default, str(error))
    return Row(model.name, model_type(file), size, context_length(file), str(model.path), default)


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
