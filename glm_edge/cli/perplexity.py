"""`glm-edge perplexity`: measure how well a model predicts a text file. See `tools/perplexity.py`."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InvalidFileError
from ..system.address_space import require_addresses
from ..system.safe_open import read_file
from ..types import EngineConfig, RuntimeName
from .model import model_option, runtime_option
from .number import ThreadCount, WholeNumber
from .progress import progress_bar

if TYPE_CHECKING:
    from ..llama.model import Model
    from ..tools.perplexity import Perplexity

_FILE_BYTES = 256 << 20  # of text, at most


@click.command("perplexity")
@click.argument("file", type=click.Path(path_type=Path))
@model_option
@click.option("--ctx", "n_ctx", type=WholeNumber(64), default=512, show_default=True, help="Tokens of a window.")
@click.option("--threads", type=ThreadCount(), help="Threads that compute.  [default: one for each big core]")
@runtime_option
def command(file: Path, model: Path | None, n_ctx: int, threads: int | None, runtime: RuntimeName | None) -> None:
    """Perplexity of a model on the text FILE, in UTF-8; conversations begin with "[Round 1]".

    Lower is better. Figures compare only where text and tokenizer are the same. Prints a sentence and one JSON line:
    the perplexity, its standard error (the sentence's +-) and the number of tokens that were predicted.
    Without --runtime ik it is llama.cpp that computes.
    """
    require_addresses()
    from ..engine.engine import open_model
    from ..engine.memory_plan import plan_memory, weights_of
    from ..model.checks import check_model, prefix_ids
    from ..model.gguf import read_gguf
    from ..system.device import memory_available, processors
    from ..tools.perplexity import BATCH
    from .load import interruptible
    from .model import resolve_model

    text = text_of(file)
    path = resolve_model(model)
    header = read_gguf(path)
    check_model(header)
    config = EngineConfig(path, runtime=runtime, n_ctx=n_ctx, n_batch=BATCH)
    plan = plan_memory(config, weights_of(header), sequences=BATCH, available=memory_available())
    if plan.slow:
        click.echo(f"warning: {plan.warning}", err=True)
    loaded = interruptible(partial(open_model, config, plan))
    try:
        result = _measure(loaded, text, prefix_ids(header), n_ctx, threads or processors().best)
    finally:
        loaded.close()
    click.echo(f"{file}: perplexity {result.value:.4f} +- {result.standard_error:.4f} over {result.tokens} tokens")
    figures = {"perplexity": result.value, "standard_error": result.standard_error, "tokens": result.tokens}
    click.echo(json.dumps({"model": path.name, **figures}))


def _measure(model: Model, text: str, prefix: tuple[int, ...], n_ctx: int, threads: int) -> Perplexity:
    from ..tools.perplexity import open_context, perplexity

    with closing(open_context(model, n_ctx, threads)) as context, progress_bar("perplexity", "token") as progress:
        return perplexity(model, context, text, prefix, n_ctx, progress)


def text_of(file: Path) -> str:
    """A text in UTF-8. Raises InvalidFileError for a model in its place, or another encoding."""
    content = read_file(file, _FILE_BYTES)
    if content.startswith(b"GGUF"):
        raise InvalidFileError(f"{file}: is a model, not a text; name it with --model, and as FILE the text to predict")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFileError(f"{file}: is not UTF-8 at byte {error.start}; save the text in UTF-8") from error
