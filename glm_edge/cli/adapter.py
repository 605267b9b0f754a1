"""`glm-edge convert-adapter`, and the option --adapter of the verbs that run a model."""

from __future__ import annotations

import re
from pathlib import Path

import click

from ..errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@click.command("convert-adapter")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--for",
    "base",
    type=click.Path(path_type=Path),
    required=True,
    metavar="MODEL",
    help="The model that it was trained for: its GGUF file or its checkpoint folder.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Output file.  [default: NAME-adapter.gguf in ./models, or here where there is no such folder]",
)
@click.option(
    "--type",
    "type_",
    type=click.Choice(("f16", "f32")),
    default="f16",
    show_default=True,
    help="Of the keys and values; f16 is what the cache holds.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
def command(folder: Path, base: Path, out: Path | None, type_: str, force: bool) -> None:
    """Turn a P-Tuning v2 checkpoint into an adapter, a GGUF file of a few megabytes.

    FOLDER is what the official training script saved: config.json and a pytorch_model.bin or model.safetensors with
    the prefix encoder. Run the result with glm-edge chat --adapter, or serve --adapter NAME=FILE.
    """
    from ..convert.adapter import convert_adapter

    report = convert_adapter(folder, base, out, type=type_, force=force)  # type: ignore[arg-type]
    how = "with its projection" if report.projected else "without a projection"
    click.echo(f"{report.path}: {report.size / 1e6:.1f} MB, {report.tokens} cells in front of every prompt, {how}")
    click.echo(f"next: glm-edge chat --adapter {report.path}", err=True)


def parse_adapters(given: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    """NAME=FILE, or a folder, as EngineConfig.adapters has it. Raises UsageError for anything else."""
    found: list[tuple[str, Path]] = []
    for value in given:
        name, equals, path = value.partition("=")
        if not equals and Path(value).is_dir():
            found.append(("", Path(value)))
        elif not equals or not path or _NAME.fullmatch(name) is None:
            raise UsageError(
                f"--adapter takes NAME=FILE, with a name of letters, digits, '.', '_' and '-', or a folder of"
                f" adapters, not {value!r}"
            )
        else:
            found.append((name, Path(path)))
    return tuple(found)
