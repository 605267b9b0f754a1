"""`glm-edge perplexity`: how well a model predicts a text file."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..errors import InvalidFileError, StorageError


@click.command("perplexity")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="The GGUF file.  [default: the demo model]")
@click.option("--ctx", "n_ctx", type=click.IntRange(64), default=512, show_default=True, help="Tokens of a window.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Processors to use; all without it.")
def command(file: Path, model: Path | None, n_ctx: int, threads: int | None) -> None:
    """Perplexity of a model on the text FILE, in UTF-8; conversations begin with "[Round 1]".

    Lower is better, and only the same text and tokenizer compare. Prints a sentence and one JSON line.
    """
    from tqdm import tqdm

    from ..device import processors
    from ..engine.perplexity import perplexity
    from ..gguf import read_gguf
    from ..llama import Context, Model
    from ..model_file import check_model, prefix_ids
    from .model import resolve_model

    text = _read(file)
    path = resolve_model(model)
    header = read_gguf(path)
    check_model(header)
    n_threads = threads or processors().best
    loaded = Model(path)
    context = Context(
        loaded,
        n_ctx=n_ctx,
        n_batch=32,
        n_sequences=1,
        n_outputs=32,
        n_threads=n_threads,
        n_threads_batch=n_threads,
    )
    with tqdm(desc="perplexity", unit="token", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = perplexity(loaded, context, text, prefix_ids(header), progress)
    context.close()
    loaded.close()
    click.echo(f"{file}: perplexity {result.value:.4f} +- {result.error:.4f} over {result.tokens} tokens")
    click.echo(
        json.dumps({"model": path.name, "perplexity": result.value, "error": result.error, "tokens": result.tokens})
    )


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise StorageError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidFileError(f"{file}: is not UTF-8 at byte {error.start}") from error
