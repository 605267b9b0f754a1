"""`glm-edge compare`: how far a quantized model is from the one that it was made from. See `tools/compare.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..system.address_space import require_addresses
from .number import ThreadCount, WholeNumber
from .perplexity import text_of
from .progress import progress_bar

if TYPE_CHECKING:
    from ..llama.model import Model


@click.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--text", "file", type=click.Path(path_type=Path), required=True, help='In UTF-8; rounds begin with "[Round 1]".'
)
@click.option("--ctx", "n_ctx", type=WholeNumber(64), default=512, show_default=True, help="Tokens of a window.")
@click.option("--threads", type=ThreadCount(), help="Threads that compute.  [default: one for each big core]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead.")
def command(a: Path, b: Path, file: Path, n_ctx: int, threads: int | None, as_json: bool) -> None:
    """How much model B differs from model A, the reference, on a text.

    A is the larger file, as F16 or Q8_0, B the smaller one. Tells the KL divergence of B from A in nats a token, how
    often both find the same token likeliest, and both perplexities, with intervals of 95 %.
    """
    require_addresses()
    from dataclasses import asdict

    from ..model.checks import check_model, prefix_ids
    from ..model.gguf import read_gguf
    from ..system.device import processors
    from ..tools.compare import check_same_vocabulary, compare
    from ..tools.perplexity import open_context
    from .load import interruptible
    from .model import resolve_model

    text = text_of(file)
    files = [read_gguf(resolve_model(path)) for path in (a, b)]
    for head in files:
        check_model(head)
    check_same_vocabulary(*files)
    n_threads = threads or processors().best
    with ExitStack() as stack:
        models, contexts = [], []
        for head in files:
            model = interruptible(partial(_load, head.path))
            models.append(stack.enter_context(closing(model)))
            contexts.append(stack.enter_context(closing(open_context(model, n_ctx, n_threads))))
        with progress_bar("compare", "token") as progress:
            found = compare(
                (models[0], models[1]), (contexts[0], contexts[1]), text, prefix_ids(files[0]), n_ctx, progress
            )
    if as_json:
        figures = asdict(found)
        flat = {"a": files[0].path.name, "b": files[1].path.name, "bytes_a": files[0].size, "bytes_b": files[1].size}
        for name, value in figures.items():
            ends = {f"{name}_low": value["low"], f"{name}_high": value["high"]} if isinstance(value, dict) else {}
            flat |= {name: value["value"] if isinstance(value, dict) else value, **ends}
        click.echo(json.dumps(flat))
        return
    kl, same, ratio = found.kl, found.agreement, found.ratio
    click.echo(f"{files[1].path.name} against {files[0].path.name}, {found.tokens} tokens of {file}; in brackets 95 %")
    click.echo(f"size            {files[1].size / files[0].size:.3f} ({files[1].size / 1e9:.2f} GB)")
    click.echo(
        f"KL divergence   {kl.value:.5f} [{kl.low:.5f}, {kl.high:.5f}] nats a token; 99th percentile {found.kl_p99:.4f}"
    )
    click.echo(f"same likeliest  {100 * same.value:.2f} % [{100 * same.low:.2f}, {100 * same.high:.2f}]")
    click.echo(
        f"perplexity      {found.perplexity_b:.4f}, that of {files[0].path.name} {found.perplexity_a:.4f};"
        f" ratio {ratio.value:.4f} [{ratio.low:.4f}, {ratio.high:.4f}]"
    )


def _load(path: Path, progress: Callable[[float], bool]) -> Model:
    from ..llama.model import Model

    return Model(path, load_mode="mmap", repack=False, progress=progress)
