"""`glm-edge imatrix`: compute a model's importance matrix on a text. See `tools/imatrix.py`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..system.address_space import require_addresses
from .number import ThreadCount, WholeNumber
from .perplexity import text_of
from .progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..convert.source.importance import Measured
    from ..llama.model import Model


@click.command("imatrix")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Output file, for convert --imatrix.")
@click.option(
    "--text", type=click.Path(path_type=Path), help="In UTF-8.  [default: a text of ours, Chinese and English]"
)
@click.option("--ctx", "n_ctx", type=WholeNumber(64, 8192), default=512, show_default=True, help="Tokens of a chunk.")
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@click.option("--threads", type=ThreadCount(), help="Threads that compute.  [default: one for each big core]")
def command(model: Path, out: Path, text: Path | None, n_ctx: int, force: bool, threads: int | None) -> None:
    """Compute the importance matrix of MODEL: which columns of its weights matter most on a text.

    `glm-edge convert --imatrix` then rounds these with more care. MODEL is best an F16 or Q8_0 file. The output has
    llama.cpp's GGUF format and equals what its llama-imatrix makes of the same text.
    """
    require_addresses()
    from ..convert.source.importance import encoded
    from ..convert.write import OutputFile, check_output
    from ..tools.imatrix import TEXT
    from .model import resolve_model

    path = resolve_model(model)
    source = text or TEXT
    content = text_of(source)
    check_output(out, (path, source), force=force)
    found = measured(path, content, n_ctx, threads)
    data = encoded(found, source.name)
    with OutputFile(out, len(data)) as file:
        check_output(out, (path, source), force=force)  # again: the last holder of the lock may have made it
        file.write(data)
        file.finish()
        file.commit()
    click.echo(
        f"{out}: the inputs of {len(found.sums)} matrices over {found.tokens} tokens; use it with --imatrix {out}"
    )


def measured(
    path: Path,
    text: str,
    chunk: int,
    threads: int | None,
    keep: Callable[[str, NDArray[np.float32]], None] | None = None,
) -> Measured:
    """Load the model and measure it, with progress on stderr."""
    from ..model.checks import check_model
    from ..model.gguf import read_gguf
    from ..system.device import processors
    from ..tools.imatrix import measure
    from .load import in_thread, interruptible

    check_model(read_gguf(path))
    loaded = interruptible(partial(_load, path))
    with closing(loaded), progress_bar("imatrix", "token") as progress:
        n_threads = threads or processors().best
        return in_thread(lambda stopped: measure(loaded, text, chunk, n_threads, progress, stopped.is_set, keep))


def _load(path: Path, progress: Callable[[float], bool]) -> Model:
    from ..llama.model import Model

    return Model(path, load_mode="mmap", repack=False, progress=progress)
