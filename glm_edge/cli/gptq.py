"""`--gptq` of `convert`: a Q8_0 file, its matrices' inputs on a text, then rounding with error compensation.

What is done is kept beside the output, and the same command continues. Not here: what is kept and how
(`tools/compensation_folder.py`), the compensation (`tools/compensation.py`), and converting, which gets its results.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from ..errors import IntegrityError, InvalidFileError, UsageError
from .calibrate import FIRST, about, measuring, prepared
from .imatrix import measured
from .perplexity import text_of
from .progress import progress_bar

if TYPE_CHECKING:
    from ..convert.convert import Job, Report
    from ..convert.layout import Compensated
    from ..tools.compensation_folder import CompensationFolder

F = TypeVar("F", bound=Callable[..., Any])


def gptq_option(command: F) -> F:
    """--gptq."""
    return click.option(
        "--gptq",
        is_flag=True,
        help="Measure as --calibrate does, and compensate errors: loses a sixth to a third less than that, takes an"
        " hour and 13.4 GB of disk. Interrupted, the same command continues.",
    )(command)


def refuse_pull(repo: str, type_: str) -> NoReturn:
    """Raises UsageError."""
    raise UsageError(
        f"--gptq needs all weights on the disk, and pull has a shard at a time; download {repo} into a folder and run:"
        f" glm-edge convert FOLDER --type {type_} --gptq"
    )


def compensated_convert(
    checkpoint: Path,
    out: Path | None,
    type_: str,
    *,
    lora: Path | None,
    text: Path | None,
    force: bool,
    threads: int | None,
) -> Report:
    """Convert a checkpoint with error compensation. Arguments and errors are those of `convert` and `measure`.

    OUT.gptq goes at the end, and where the first step, which measures, does not end. Else it stays.
    """
    from ..convert.convert import checked_threads, enough_memory, finished, prepare
    from ..convert.recipes import recipe_of
    from ..convert.write import storage_errors
    from ..system.file_lock import Lock
    from ..tools.compensation import compensate, to_compensate
    from ..tools.compensation_folder import CompensationFolder
    from ..tools.imatrix import TEXT

    started = time.monotonic()
    recipe, converting = recipe_of(type_), checked_threads(threads)
    assert recipe is not None
    source = text or TEXT
    content = text_of(source)
    job, first = prepared(checkpoint, out, recipe, converting, lora=lora, force=force)
    if not to_compensate(job.layout.tensors):
        raise UsageError(
            f"no matrix of type {recipe.name} can be compensated; leave --gptq out, or take edge or q4_k_m"
        )
    key = _key(job, recipe.name, content)

    def again(compensated: Compensated | None = None) -> Job:
        """The job with what has been made meanwhile, of the same checkpoint."""
        made = prepare(
            checkpoint, job.out, recipe, lora=lora, imatrix=folder.imatrix, compensated=compensated, force=force
        )
        if _key(made, recipe.name, content) != key:
            raise IntegrityError(f"{checkpoint}: changed meanwhile; remove {folder.path} and begin again")
        return made

    with storage_errors(job.out, 0):
        lock = Lock(job.out.with_name(f".{job.out.name}.gptq.lock"), job.out)
    try:
        folder = CompensationFolder(job.out.with_name(f"{job.out.name}.gptq"), key, force=force)
        if folder.discarded:
            click.echo(f"{folder.path}: what was done of another checkpoint, type or text is discarded", err=True)
        with _kept(folder):
            _announce(job, first, folder, content, converting)
            if not folder.tokens:
                _measure(first, folder, content, source.name, threads)
            with enough_memory(checkpoint, converting):
                tensors = to_compensate(again().layout.tensors)
                with progress_bar("3 of 4: error compensation", "weight") as progress:
                    rounded = compensate(tensors, folder, converting, progress)
                job = again(rounded)
            with progress_bar(f"4 of 4: {type_}") as progress:
                return finished(job, recipe, converting, progress, force=force, started=started)
    finally:
        lock.release()


@contextmanager
def _kept(folder: CompensationFolder) -> Iterator[None]:
    """Remove the folder after the block. After an error it stays, with a line, if its inputs are whole."""
    try:
        yield
    except BaseException as error:
        if not folder.tokens:
            folder.remove()
        elif isinstance(error, (IntegrityError, InvalidFileError)):  # the same command would fail again
            click.echo(f"{folder.path}: stays; remove it before you begin again", err=True)
        else:
            click.echo(f"{folder.path}: stays, and the same command continues with it", err=True)
        raise
    folder.remove()


def _key(job: Job, recipe: str, text: str) -> str:
    """A hash of what the result depends on, files by size and time of the last change."""
    from .. import __version__

    files = [(file.path.name, file.stamp) for file in job.source.files]
    parts = [__version__, recipe, files, text]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _announce(job: Job, first: Job, folder: CompensationFolder, text: str, threads: int) -> None:
    """Say what it takes. Raises StorageError where the disk has not so much, InvalidFileError for a text too short."""
    from ..convert.write import amount, check_space
    from ..tools.compensation import expected_seconds, inputs_size, memory, to_compensate

    tokens, seconds = measuring(first, text, threads)
    chosen = to_compensate(job.layout.tensors)
    left = [placed for placed in chosen if folder.rounded(placed) is None]
    total = expected_seconds(left, tokens, threads)
    names = {placed.tensor.name for placed in chosen}
    others = inputs_size([placed for placed in job.layout.tensors if placed.tensor.name not in names], tokens)
    inputs = inputs_size(left, tokens) + others
    results = sum(placed.size for placed in chosen) + job.layout.size + others
    size, there = max(inputs, results), folder.size
    if not folder.tokens:
        size, there, total = max(first.layout.size + inputs, results), 0, total + seconds
    space = amount(memory(chosen, threads))
    of_it = f", of which {amount(min(there, size))} are there" if there else ""
    ready = f"; {len(chosen) - len(left)} of {len(chosen)} matrices are done" if folder.tokens else ""
    click.echo(
        f"{job.out}: needs {amount(size)} of disk{of_it}, {space} of memory and {about(total)}{ready}; interrupted"
        " after measuring, the same command continues",
        err=True,
    )
    check_space(job.out, max(0, size - there))


def _measure(first: Job, folder: CompensationFolder, text: str, name: str, threads: int | None) -> None:
    """Keep the inputs of all matrices on the text, and the importance matrix."""
    from ..convert.convert import checked_threads, written
    from ..tools.imatrix import CHUNK

    keep, done = folder.keep_inputs()
    with (
        progress_bar(f"1 of 4: {FIRST}") as progress,
        written(first, checked_threads(threads), progress, force=True) as (file, _),
    ):
        found = measured(file.temporary, text, CHUNK, threads, keep)
    done(found, name)
