"""`glm-edge warm`: compute prompts beforehand and save them beside the model, so that even the first answer is quick.

The states go into the folder MODEL.prefixes, to be bundled with the model. Every later start with the same runtime
reads it, on every processor; another runtime or version ignores it, and so does an engine with flash attention.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..engine.text.prompt import prompt_text, rounds
from ..errors import InvalidFileError
from ..system.address_space import require_addresses
from ..system.safe_open import read_file
from ..types import Message, RuntimeName
from .model import model_option, runtime_option
from .number import ThreadCount

_FILE_BYTES = 64 << 20  # of prompts, at most


@click.command("warm")
@model_option
@click.option("--prompts", type=click.Path(path_type=Path), required=True, help="A file of JSON lines.")
@click.option("--threads", type=ThreadCount(), help="Threads that compute.  [default: one for each big core]")
@runtime_option
def command(model: Path | None, prompts: Path, threads: int | None, runtime: RuntimeName | None) -> None:
    """Compute prompts and save them in MODEL.prefixes, to be bundled with the model.

    A line of PROMPTS is {"system": TEXT}, the beginning of all conversations of an application, or {"messages": [...]},
    a whole conversation as the API takes it. Prompts of fewer than 128 tokens are quick anyway and are not saved.
    """
    require_addresses()
    from ..engine.prefix_cache.store import LEAST_WRITTEN
    from ..engine.prefix_cache.store_file import bundled_folder
    from ..types import EngineConfig, Request, SamplingParams
    from .load import load_engine
    from .model import resolve_model
    from .progress import bar

    texts = _read(prompts)
    path = resolve_model(model)
    folder = bundled_folder(path)
    engine = load_engine(EngineConfig(path, runtime=runtime, n_threads=threads, cache_folder=folder))
    short: list[str] = []
    try:
        for number, text in bar("warming", iterable=texts, unit="prompt"):
            request = Request((), SamplingParams(temperature=0), max_tokens=1, prompts=(text,))
            stats = list(engine.submit(request))[-1].stats
            if stats is not None and stats.prompt_tokens < LEAST_WRITTEN:
                short.append(f"{prompts}: line {number} has {stats.prompt_tokens} tokens, too few to be saved")
            engine.flush()
    finally:
        engine.close()
    for line in short:
        click.echo(f"warning: {line}", err=True)
    saved = list(folder.glob("*.prefix"))
    for file in saved:  # readable like the model: these are no texts that users wrote to a server
        file.chmod(0o644)
    if saved:
        folder.chmod(0o755)
    size = sum(file.stat().st_size for file in saved)
    click.echo(f"{folder}: {len(texts) - len(short)} of {len(texts)} prompts saved; {size / 1e6:.1f} MB in all")


def _read(path: Path) -> list[tuple[int, str]]:
    """The prompts' texts, each with its line's number. Raises StorageError or InvalidFileError naming the line."""
    lines = read_file(path, _FILE_BYTES).splitlines()
    texts = [(number, _text(line, f"{path}: line {number}")) for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise InvalidFileError(f"{path}: has no prompts; write one JSON object a line")
    return texts


def _text(line: bytes, where: str) -> str:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        raise InvalidFileError(f"{where} is not JSON") from None
    match value:
        case {"system": str(system)}:
            return f"[Round 1]\n\n问：{system}\n\n"
        case {"messages": [_, *_] as messages}:
            return prompt_text(*rounds([_message(message, where) for message in messages]))
    raise InvalidFileError(f'{where} has neither a text "system" nor a list "messages"')


def _message(value: object, where: str) -> Message:
    match value:
        case {"role": "system" | "user" | "assistant" as role, "content": str(content)}:
            return Message(role, content)
    raise InvalidFileError(f'{where} has a message without a known "role" and a text "content"')
