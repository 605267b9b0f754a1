"""A checkpoint folder to one GGUF file: checks first, then one pass over the weights, then the proof, then the name.

Everything that can be known without reading weights (options, output, config.json, tensors, vocabulary, disk space) is
checked before any weight is read. The same input gives the same bytes whatever the number of threads.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from glm_edge.errors import OutOfMemoryError, UsageError

from .blocks import encoded_blocks
from .checkpoint import Checkpoint, open_checkpoint
from .compare import compare
from .golden import golden
from .layout import Layout, lay_out, sealed
from .lora import merge_lora
from .metadata import build_metadata
from .recipes import RECIPES, Recipe, recipe_of
from .tensors import map_tensors
from .vocab import load_sentencepiece, read_vocabulary
from .write import OutputFile, check_output, check_space

MAX_THREADS = 256
Progress = Callable[[int, int], None]  # bytes written so far, bytes in all


@dataclass(frozen=True)
class Report:
    """What a conversion made."""

    path: Path
    size: int  # bytes
    recipe: str
    types: Mapping[str, tuple[str, ...]]  # by kind of tensor
    errors: Mapping[str, float]  # by kind: relative root mean square error of samples of every tensor
    tensors: int
    threads: int
    seconds: float


def convert(
    checkpoint: Path,
    out: Path | None = None,
    *,
    type: str | Recipe = "q4_0",
    lora: Path | None = None,
    force: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Convert the checkpoint in a folder; `out` defaults to NAME-TYPE.gguf in ./models or, without that folder, here.
    `type` names one of RECIPES or is a recipe; `lora` is a folder of PEFT whose LoRA is merged on the way.

    Raises UsageError, InvalidFileError, UnsupportedModelError, StorageError, IntegrityError (the file did not read back
    as it was written) or OutOfMemoryError. Whatever ends it, a signal's exception too, leaves no temporary file, and
    under the output's name what was there before.
    """
    started = time.monotonic()
    recipe = type if isinstance(type, Recipe) else recipe_of(type)
    if recipe is None:
        raise UsageError(f"type {type!r} is unknown; choose one of {', '.join(RECIPES)}")
    threads = available_cores() if threads is None else threads
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads is {threads}, outside 1 to {MAX_THREADS}")
    if out is not None:
        check_output(out, (), force=force)
    try:
        source = open_checkpoint(checkpoint)
        if lora is not None:
            source = merge_lora(source, lora)
        out = default_output(source.config.name, recipe.name) if out is None else out
        inputs = (*source.files, source.tokenizer, source.folder / "config.json")
        check_output(out, inputs, force=force)
        layout = plan(source, recipe)
        with OutputFile(out, layout.size) as file:
            check_output(out, inputs, force=force)  # again: whoever held the lock may have made it
            check_space(out, layout.size)
            layout = sealed(layout, _write(file, layout, checkpoint, threads, progress))
            file.rewrite(layout.head)
            file.finish()
            errors = compare(file.temporary, layout)
            file.commit()
    except MemoryError as error:
        raise OutOfMemoryError(f"{checkpoint}: not enough memory to convert with {threads} threads; try 1") from error
    types: dict[str, tuple[str, ...]] = {}
    for placed in layout.tensors:
        types[placed.tensor.kind] = tuple(sorted({*types.get(placed.tensor.kind, ()), placed.type}))
    seconds = time.monotonic() - started
    return Report(out, layout.size, recipe.name, types, errors, len(layout.tensors), threads, seconds)


def plan(source: Checkpoint, recipe: Recipe) -> Layout:
    """The whole file but for its weights. Raises what the parts raise; reads no weights."""
    tensors = map_tensors(source.config, source.tensors, source.folder)
    vocabulary = read_vocabulary(source.tokenizer, source.config.padded_vocab_size)
    ids = golden(load_sentencepiece(vocabulary))
    files = sorted((path.name, path.stat().st_size) for path in source.files)
    return lay_out(build_metadata(source.config, vocabulary, ids, recipe, files), tensors, recipe)


def _write(file: OutputFile, layout: Layout, where: Path, threads: int, progress: Progress | None) -> list[str]:
    """Write head and weights; returns the SHA-256 of each tensor's data, in hexadecimal."""
    file.write(layout.head)
    hashes = []
    running = hashlib.sha256()
    for block in encoded_blocks(layout, where, threads):
        file.write(block.data.data)
        running.update(block.data.data)
        end = block.placed.offset + block.stop * block.placed.row_bytes
        if block.is_last:
            file.write(bytes(block.placed.end - end))
            end = block.placed.end
            hashes.append(running.hexdigest())
            running = hashlib.sha256()
        if progress is not None:
            progress(end, layout.size)
    return hashes


def default_output(name: str, type: str) -> Path:
    """NAME-TYPE.gguf in the folder models of the current one, or in the current one where that does not exist."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"  # a name out of a file must not lead elsewhere
    folder = Path("models")
    return (folder if folder.is_dir() else Path()) / f"{plain[:100]}-{type}.gguf"


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MAX_THREADS)
    return min(os.cpu_count() or 1, MAX_THREADS)
