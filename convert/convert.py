"""A checkpoint folder to one GGUF file: check, write in one pass over the weights, read back and compare, rename.

All that can be known without weights (options, output, config.json, tensors, vocabulary, disk space) is checked before
a weight is read. The same input gives the same bytes with any number of threads.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from glm_edge.errors import OutOfMemoryError, StorageError, UsageError
from glm_edge.model import ggml
from glm_edge.model.keys import HASH_DIGITS
from glm_edge.system.device import processors

from .blocks import write_blocks
from .compare import compare
from .layout import Compensated, Layout, Placed, lay_out, sealed
from .metadata import build_metadata
from .quantize.recipe import Recipe
from .quantize.threads import Threads
from .recipes import DEFAULT, RECIPES, recipe_of
from .source.checkpoint import Checkpoint, open_checkpoint
from .source.config import ModelConfig
from .source.importance import ImportanceMatrix, read_importance
from .source.lora import merge_lora
from .source.sources import FileHash, sources_text
from .tensors import Tensor, map_tensors
from .tokenizer.golden import golden
from .tokenizer.vocab import load_sentencepiece, read_vocabulary
from .write import OutputFile, check_output, check_space

MAX_THREADS = 256
HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)  # OWNER/NAME
Progress = Callable[[int, int], None]  # bytes written so far, bytes in all


@dataclass(frozen=True)
class Report:
    """What a conversion made: the file, and the types and errors of its tensors."""

    path: Path
    size: int  # bytes
    recipe: str
    types: Mapping[str, tuple[str, ...]]  # by kind of tensor
    errors: Mapping[str, float]  # by kind of tensor: relative root mean square error of samples
    tensors: int
    threads: int
    seconds: float


@dataclass(frozen=True)
class Job:
    """A conversion of which all is checked that can be known without weights."""

    source: Checkpoint
    inputs: tuple[Path, ...]
    out: Path
    layout: Layout  # with zeros in place of the hashes


def convert(
    checkpoint: Path,
    out: Path | None = None,
    *,
    type: str | Recipe = DEFAULT,
    lora: Path | None = None,
    imatrix: Path | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Convert the checkpoint in a folder.

    Args:
        out: the GGUF file; by default NAME-TYPE.gguf in ./models, or here where there is no such folder.
        type: the name of one of RECIPES, or a recipe.
        lora: a folder of PEFT; its LoRA is merged into the weights.
        imatrix: an importance matrix of the model, in llama.cpp's GGUF format.

    Raises UsageError, InvalidFileError, UnsupportedModelError, StorageError, IntegrityError (the file did not read back
    as it was written) or OutOfMemoryError. After any error, a signal's exception too, there is no temporary file, and
    the output is as it was before.
    """
    started = time.monotonic()
    recipe, threads = checked_recipe(type, imatrix), checked_threads(threads)
    with enough_memory(checkpoint, threads):
        job = prepare(checkpoint, out, recipe, lora=lora, imatrix=imatrix, force=force)
    return finished(job, recipe, threads, progress, force=force, started=started)


def finished(
    job: Job, recipe: Recipe, threads: int, progress: Progress | None, *, force: bool, started: float
) -> Report:
    """Write the file of a job that `prepare` made with this recipe, and name it. Raises as `convert` does.

    Args:
        started: by time.monotonic(), for the report.
    """
    with written(job, threads, progress, force=force) as (file, errors):
        file.commit()
    seconds = time.monotonic() - started
    layout = job.layout
    return Report(job.out, layout.size, recipe.name, types_of(layout), errors, len(layout.tensors), threads, seconds)


def prepare(
    checkpoint: Path,
    out: Path | None,
    recipe: Recipe,
    *,
    lora: Path | None = None,
    imatrix: Path | None = None,
    compensated: Compensated | None = None,
    force: bool = False,
) -> Job:
    """Check all that can be known without weights. Arguments and errors are those of `convert`.

    Args:
        compensated: matrices that have been rounded already.
    """
    importance = read_importance(imatrix) if imatrix is not None else None
    if out is not None:
        check_output(out, (), force=force)
    _refuse_hub_id(checkpoint, recipe)
    source = open_checkpoint(checkpoint)
    if lora is not None:
        source = merge_lora(source, lora)
    inputs = (*(file.path for file in source.files), *([imatrix] if imatrix is not None else []))
    out = default_output(source.config.name, recipe.name) if out is None else out
    check_output(out, inputs, force=force)
    return Job(source, inputs, out, plan(source, recipe, importance, compensated))


@contextlib.contextmanager
def written(
    job: Job, threads: int, progress: Progress | None = None, *, force: bool = False
) -> Iterator[tuple[OutputFile, dict[str, float]]]:
    """The whole file, read back, under its temporary name, and its errors by kind of tensor.

    It is removed at the end of the block unless `commit` was called. Raises as `convert` does.
    """
    with OutputFile(job.out, job.layout.size) as file:
        check_output(job.out, job.inputs, force=force)  # again: the last holder of the lock may have made it
        check_space(job.out, job.layout.size)
        with enough_memory(job.source.folder, threads):
            layout = _write(file, job.layout, job.source, threads, progress)
            file.finish()
            errors = compare(file, layout)
        yield file, errors


def checked_recipe(type: str | Recipe, imatrix: Path | None = None) -> Recipe:
    """The recipe of this name. Raises UsageError for a name that no recipe has, and for a lacking importance matrix."""
    recipe = type if isinstance(type, Recipe) else recipe_of(type)
    if recipe is None:
        raise UsageError(f"type {type!r} is unknown; choose one of {', '.join(RECIPES)}")
    if recipe.needs_importance and imatrix is None:
        raise UsageError(
            f"type {recipe.name} needs an importance matrix; add --imatrix FILE or --calibrate, or choose another type"
        )
    return recipe


def checked_threads(threads: int | None) -> int:
    """The number of threads, by default one for each processor that this process may use. Raises UsageError."""
    threads = min(processors().every, MAX_THREADS) if threads is None else threads
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads is {threads}, outside 1 to {MAX_THREADS}")
    return threads


@contextlib.contextmanager
def enough_memory(where: Path, threads: int) -> Iterator[None]:
    """Turns a MemoryError within the block into an OutOfMemoryError."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemoryError(f"{where}: not enough memory to convert with {threads} threads; try 1") from error


def _refuse_hub_id(checkpoint: Path, recipe: Recipe) -> None:
    """Raises StorageError, which names `glm-edge pull`, where a repository is given instead of a folder."""
    name = checkpoint.as_posix()
    if HUB_ID.fullmatch(name) and not checkpoint.parent.exists():
        raise StorageError(
            f"{name}: no such folder; to fetch {name} from the Hugging Face hub and convert it: glm-edge pull {name}"
            f" --type {recipe.name}"
        )


def plan(
    source: Checkpoint,
    recipe: Recipe,
    importance: ImportanceMatrix | None = None,
    compensated: Compensated | None = None,
) -> Layout:
    """The layout of the result. Reads no weights; raises as `convert` does."""
    tensors = map_tensors(source.config, source.tensors, source.folder)
    files = {file.path.name: file.size for file in source.files}
    return planned(source.config, source.tokenizer, files, tensors, recipe, importance, compensated)


def planned(
    config: ModelConfig,
    tokenizer: Path,
    files: Mapping[str, int],
    tensors: Sequence[Tensor],
    recipe: Recipe,
    importance: ImportanceMatrix | None = None,
    compensated: Compensated | None = None,
) -> Layout:
    """The layout of the result, with zeros in place of the hashes.

    Args:
        files: size in bytes of every source file by name.
    """
    ggml.library()  # where it is missing, say so before weights are read
    vocabulary = read_vocabulary(tokenizer, config.padded_vocab_size)
    ids = golden(load_sentencepiece(vocabulary))
    sources = sources_text(files, dict.fromkeys(files, "0" * HASH_DIGITS))
    sha256 = importance.sha256 if importance is not None else None
    about = compensated.about if compensated is not None else None
    metadata = build_metadata(config, vocabulary, ids, recipe, sources, sha256, about)
    return lay_out(metadata, tensors, recipe, importance, compensated)


def _write(file: OutputFile, layout: Layout, source: Checkpoint, threads: int, progress: Progress | None) -> Layout:
    """Write head and weights; returns the layout with all hashes in its head."""
    file.write(layout.head)
    hashes = {one.path: FileHash(one) for one in source.files}
    data = {}
    done = len(layout.head)
    # A thread of its own hashes the sources, one block at a time: where SHA-256 is slow, nothing else takes as long.
    with Threads(1, thread_name_prefix="hash") as hashing:
        pending: deque[Future[None]] = deque()
        for block, digest in write_blocks(file, sorted(layout.tensors, key=_stored_at), source.folder, threads):
            placed, stored = block.placed, block.placed.tensor.source.parts[0]
            pending.append(hashing.submit(hashes[stored.file.path].add, stored.offset_of(block.start), block.raw))
            if len(pending) > 2 * threads:
                hashing.result(pending.popleft())
            if digest is not None:
                data[placed.tensor.name] = digest
                done += placed.size
            if progress is not None:
                progress(done if digest is not None else done + block.stop * placed.row_bytes, layout.size)
        for hashed in pending:
            hashing.result(hashed)
    sizes = {one.path.name: one.size for one in source.files}
    sources = sources_text(sizes, {path.name: one.finish() for path, one in hashes.items()})
    layout = sealed(layout, [data[placed.tensor.name] for placed in layout.tensors], sources)
    file.seek(0)
    file.write(layout.head)
    if progress is not None:
        progress(layout.size, layout.size)
    return layout


def _stored_at(placed: Placed) -> tuple[Path, int]:
    """Where the tensor begins in the checkpoint. In this order every file is read from start to end."""
    first = placed.tensor.source.parts[0]
    return first.file.path, first.offset


def types_of(layout: Layout) -> dict[str, tuple[str, ...]]:
    """The types that each kind of tensor got."""
    types: dict[str, tuple[str, ...]] = {}
    for placed in layout.tensors:
        types[placed.tensor.kind] = tuple(sorted({*types.get(placed.tensor.kind, ()), placed.type}))
    return types


def default_output(name: str, type: str) -> Path:
    """NAME-TYPE.gguf in the folder models of the current one, or in the current one where that does not exist."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"  # of a file: no path
    folder = Path("models")
    return (folder if folder.is_dir() else Path()) / f"{plain[:100]}-{type}.gguf"
