"""`--calibrate` of `convert` and `pull`: a Q8_0 file first, its importance matrix, then the type that was asked for.

Only the last keeps a name of its own. Not here: the measuring (`tools/imatrix.py`), and converting, which knows nothing
of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from ..convert.quantize.recipe import Recipe
from ..errors import UsageError
from .imatrix import measured
from .perplexity import text_of
from .progress import progress_bar

if TYPE_CHECKING:
    from ..convert.convert import Job, Report

F = TypeVar("F", bound=Callable[..., Any])
FIRST = "q8_0"  # what is measured: nearly as good as the checkpoint, in half of its bytes
_PLAIN = ("f32", "f16", "bf16", "q8_0")  # types whose rounding takes no importance


def calibrate_options(command: F) -> F:
    """--calibrate and --text."""
    text = click.option(
        "--text",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Text for --calibrate and --gptq, in UTF-8.  [default: a text of ours, Chinese and English]",
    )
    calibrate = click.option(
        "--calibrate",
        is_flag=True,
        help="Measure an importance matrix first, with a Q8_0 file that is removed. Better answers from as many bytes.",
    )
    return calibrate(text(command))


def check_options(*, calibrate: bool, text: Path | None, imatrix: Path | None, gptq: bool = False) -> None:
    """Raises UsageError where they contradict each other."""
    if (calibrate or gptq) and imatrix is not None:
        option = "--gptq" if gptq else "--calibrate"
        raise UsageError(f"{option} makes an importance matrix and --imatrix gives one; leave one of them out")
    if text is not None and not calibrate and not gptq:
        raise UsageError("--text is for --calibrate and --gptq; add one of them, or leave --text out")


def calibrated(
    checkpoint: Path,
    out: Path | None,
    type_: str,
    *,
    lora: Path | None,
    text: Path | None,
    force: bool,
    threads: int | None,
) -> Report:
    """Convert a checkpoint with a matrix of its own. Arguments and errors are those of `convert` and `measure`.

    Both intermediate files are temporary ones, which go on any error and on a signal; those that a killed process left
    go with the next call.
    """
    from ..convert.convert import checked_threads, convert, written
    from ..convert.source.importance import encoded
    from ..convert.write import OutputFile, amount, check_space
    from ..tools.imatrix import CHUNK, TEXT

    started = time.monotonic()
    recipe, converting = _checked(type_), checked_threads(threads)
    source = text or TEXT
    content = text_of(source)
    job, first = prepared(checkpoint, out, recipe, converting, lora=lora, force=force)
    check_space(job.out, max(first.layout.size, job.layout.size))
    _, seconds = measuring(first, content, threads)
    click.echo(
        f"{job.out}: needs {amount(max(first.layout.size, job.layout.size))} of disk; converts to {FIRST}, measures"
        f" that ({about(seconds)}), removes it and converts to {recipe.name}",
        err=True,
    )
    with OutputFile(job.out.with_name(f"{job.out.name}.imatrix"), 0) as matrix:
        with (
            progress_bar(f"1 of 3: {FIRST}") as progress,
            written(first, converting, progress, force=True) as (file, _),
        ):
            found = measured(file.temporary, content, CHUNK, threads)
        matrix.write(encoded(found, source.name))
        matrix.finish()
        with progress_bar(f"3 of 3: {type_}") as progress:
            report = convert(
                checkpoint,
                job.out,
                type=recipe,
                lora=lora,
                imatrix=matrix.temporary,
                force=force,
                threads=threads,
                progress=progress,
            )
    return replace(report, seconds=time.monotonic() - started)


def prepared(
    checkpoint: Path, out: Path | None, recipe: Recipe, threads: int, *, lora: Path | None, force: bool
) -> tuple[Job, Job]:
    """The conversion that was asked for, and the one to Q8_0 beside it. Raises as `convert` does."""
    from ..convert.convert import enough_memory, prepare
    from ..convert.recipes import RECIPES

    with enough_memory(checkpoint, threads):
        job = prepare(checkpoint, out, recipe, lora=lora, force=force)
        first = job.out.with_name(f"{job.out.name}.{FIRST}")
        return job, prepare(checkpoint, first, RECIPES[FIRST], lora=lora, force=True)


class Fetch(Protocol):
    """`convert.pull`'s function, of one repository."""

    def __call__(self, out: Path, type: str, imatrix: Path | None) -> Report: ...


def calibrated_pull(
    repo: str, out: Path | None, type_: str, fetch: Fetch, *, text: Path | None, force: bool, threads: int | None
) -> Report:
    """The same of a repository. It is fetched twice, because the disk has room for a shard only.

    After any interruption the same call continues, so what was fetched stays: the Q8_0 file until it is measured, and
    the matrix, as OUT.imatrix, for good. Raises as `pull` and `measure` do.
    """
    from ..convert.convert import default_output
    from ..convert.recipes import RECIPES
    from ..convert.source.importance import encoded, read_importance
    from ..convert.write import OutputFile, check_output
    from ..tools.imatrix import CHUNK, TEXT

    recipe = _checked(type_)
    source = text or TEXT
    content = text_of(source)
    out = out or default_output(repo.rpartition("/")[2], recipe.name)
    check_output(out, (), force=force)
    matrix, first = out.with_name(f"{out.name}.imatrix"), out.with_name(f".{out.name}.{FIRST}")
    if matrix.exists():
        read_importance(matrix)
        click.echo(f"{matrix}: is there and is used; to measure again, remove it", err=True)
    else:
        size = RECIPES[FIRST].gigabytes
        click.echo(
            f"{repo}: is fetched twice: as {FIRST} ({size:.2f} GB of ChatGLM2-6B, removed when it is measured), and as"
            f" {recipe.name}; measuring takes {about(_largest_seconds(content, threads))} or less",
            err=True,
        )
        if first.exists():
            _check_ours(first)
        else:
            fetch(first, FIRST, None)
        try:
            found = measured(first, content, CHUNK, threads)
        except BaseException:
            click.echo(f"{first}: stays, and the same command continues with it", err=True)
            raise
        data = encoded(found, source.name)
        with OutputFile(matrix, len(data)) as file:
            file.write(data)
            file.finish()
            file.commit()
        first.unlink()
    return fetch(out, recipe.name, matrix)


def _check_ours(path: Path) -> None:
    """Raises UsageError unless a pull of ours has made it: it will be removed."""
    from ..model.gguf import read_gguf
    from ..model.keys import SOURCES

    if path.is_symlink() or SOURCES not in read_gguf(path).metadata:
        raise UsageError(f"{path}: is there already and no pull made it; move it away")


def _largest_seconds(text: str, threads: int | None) -> float:
    """A prediction for ChatGLM2-6B, whose tokenizer makes a token of 3 to 4 bytes."""
    from ..convert.recipes import RECIPES
    from ..system.device import processors
    from ..tools.imatrix import expected_seconds

    weights = int(RECIPES["f16"].gigabytes * 1e9 / 2)
    return expected_seconds(weights, len(text.encode()) // 3, threads or processors().best)


def measuring(job: Job, text: str, threads: int | None) -> tuple[int, float]:
    """The tokens that will be read, and about how many seconds that takes. Raises InvalidFileError for too few."""
    from ..convert.tokenizer.vocab import load_sentencepiece, read_vocabulary
    from ..system.device import processors
    from ..tools.imatrix import CHUNK, expected_seconds, whole_chunks

    vocabulary = read_vocabulary(job.source.tokenizer, job.source.config.padded_vocab_size)
    tokens = whole_chunks(len(load_sentencepiece(vocabulary).encode(text)), CHUNK)
    weights = sum(
        placed.tensor.columns * placed.tensor.rows
        for placed in job.layout.tensors
        if len(placed.tensor.shape) > 1 and placed.tensor.kind != "embedding"
    )
    return tokens, expected_seconds(weights, tokens, threads or processors().best)


def about(seconds: float) -> str:
    minutes = round(seconds / 60)
    return "less than a minute" if not minutes else f"about {minutes} minute{'s' * (minutes > 1)}"


def _checked(type_: str) -> Recipe:
    from ..convert.recipes import recipe_of

    recipe = recipe_of(type_)
    assert recipe is not None
    if recipe.matrices in _PLAIN:
        raise UsageError(f"type {recipe.name} uses no importance matrix; leave --calibrate out, or choose another type")
    return recipe
