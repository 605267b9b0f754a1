"""The command `glm-edge convert` and `python -m convert`: declares options, shows progress, prints the report.

The work is done by `convert/convert.py`, imported when the command runs, so that help is instant.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from glm_edge.cli.calibrate import calibrate_options, calibrated, check_options
from glm_edge.cli.gptq import compensated_convert, gptq_option
from glm_edge.cli.number import WholeNumber, no_choice
from glm_edge.system.address_space import require_addresses

from ..convert.recipes import ALIASES, DEFAULT, RECIPES

if TYPE_CHECKING:
    from ..convert.convert import Report

F = TypeVar("F", bound=Callable[..., Any])
_OUT = "Output file.  [default: NAME-TYPE.gguf in ./models, or here where there is no such folder]"
_TYPES = "\b\nTypes, and the size of ChatGLM2-6B (a matrix: --imatrix or --calibrate):\n" + "\n".join(
    f"  {recipe.name:<9}{recipe.gigabytes:6.2f} GB  {recipe.about}{', with a matrix' * recipe.needs_importance}"
    for recipe in RECIPES.values()
)


class _TypeName(click.types.StringParamType):
    """A value of --type, in lower case. The short names that llama.cpp's tool takes are taken too, and not listed."""

    name = "type"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = str(value).lower()
        if name not in RECIPES and name not in ALIASES:
            raise no_choice(str(value), list(RECIPES), param, ctx)
        return name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = (recipe for recipe in RECIPES.values() if recipe.name.startswith(incomplete))
        return [CompletionItem(recipe.name, help=recipe.about) for recipe in found]


def type_option(about: str) -> Callable[[F], F]:
    """--type, whose help is `about`; `glm-edge pull` has this and the next two as well."""
    return click.option(
        "--type",
        "type_",
        type=_TypeName(),
        default=DEFAULT,
        show_default=True,
        help=about,
    )


out_option = click.option("--out", type=click.Path(path_type=Path), help=_OUT)
imatrix_option = click.option(
    "--imatrix", type=click.Path(path_type=Path), metavar="FILE", help="Importance matrix of the model, as GGUF."
)
threads_option = click.option(
    "--threads", type=WholeNumber(1, 256), help="Threads that quantize.  [default: one for each core]"
)


@click.command("convert", epilog=_TYPES)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@type_option("What the weights become, as listed below.")
@out_option
@imatrix_option
@calibrate_options
@gptq_option
@click.option("--lora", type=click.Path(path_type=Path), metavar="DIR", help="PEFT LoRA folder to merge.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@threads_option
def command(
    checkpoint: Path,
    type_: str,
    out: Path | None,
    imatrix: Path | None,
    calibrate: bool,
    gptq: bool,
    text: Path | None,
    lora: Path | None,
    force: bool,
    threads: int | None,
) -> None:
    """Turn a ChatGLM2 checkpoint folder into one GGUF file.

    CHECKPOINT holds config.json, tokenizer.model and the weights (.safetensors or .bin, floats or int4 or int8), as
    downloaded from Hugging Face. Its Python files are never run. The output's NAME is the model's in config.json
    (_name_or_path), as chatglm2-6b, or else the folder's.
    """
    require_addresses()
    from glm_edge.cli.made import welcome
    from glm_edge.cli.progress import progress_bar

    from ..convert.convert import convert

    check_options(calibrate=calibrate, text=text, imatrix=imatrix, gptq=gptq)
    if gptq:
        report = compensated_convert(checkpoint, out, type_, lora=lora, text=text, force=force, threads=threads)
    elif calibrate:
        report = calibrated(checkpoint, out, type_, lora=lora, text=text, force=force, threads=threads)
    else:
        with progress_bar(type_) as progress:
            report = convert(
                checkpoint, out, type=type_, lora=lora, imatrix=imatrix, force=force, threads=threads, progress=progress
            )
    _show(report)
    if any(checkpoint.glob("*.safetensors")):  # what is read, where a folder has weights in both formats
        click.echo(
            "note: safetensors files have no checksum that would show a damaged download; compare the SHA-256 that"
            f" `glm-edge verify {report.path}` prints with those on the hub",
            err=True,
        )
    welcome(report.path)


def summary(report: Report) -> str:
    return f"{report.path}: {report.size / 1e9:.3f} GB, {report.tensors} tensors, {report.seconds:.1f} s"


def _show(report: Report) -> None:
    click.echo(summary(report))
    click.echo("kind         type    error")
    for kind, types in report.types.items():
        click.echo(f"{kind:<12} {'+'.join(types):<7} {100 * report.errors[kind]:.2f} %")
