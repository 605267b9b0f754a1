"""`glm-edge pull`: a repository of the Hugging Face hub to one GGUF file, shard by shard.

The work is done by `convert/pull/pull.py`, imported when the command runs. Progress and messages go to stderr.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from glm_edge.cli.calibrate import calibrate_options, calibrated_pull, check_options
from glm_edge.cli.convert import imatrix_option, out_option, summary, threads_option, type_option
from glm_edge.cli.gptq import refuse_pull
from glm_edge.system.address_space import require_addresses

from .progress import bar

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..convert.convert import Report


@click.command("pull")
@click.argument("repo")
@type_option("What the weights become, as `glm-edge convert --help` lists.")
@click.option("--revision", default="main", show_default=True, help="Branch, tag or commit.")
@out_option
@imatrix_option
@calibrate_options
@click.option("--gptq", is_flag=True, hidden=True)
@click.option(
    "--force", is_flag=True, help="Replace the output if it exists, and remove what another unfinished pull to it made."
)
@threads_option
def command(
    repo: str,
    type_: str,
    revision: str,
    out: Path | None,
    imatrix: Path | None,
    calibrate: bool,
    gptq: bool,
    text: Path | None,
    force: bool,
    threads: int | None,
) -> None:
    """Fetch a ChatGLM2 checkpoint from the Hugging Face hub and turn it into one GGUF file.

    REPO is OWNER/NAME, as THUDM/chatglm2-6b; the output has its NAME too. One shard at a time is on the disk, in
    OUT.pull; the same command continues what was interrupted. HF_ENDPOINT sets a mirror, HF_TOKEN a token. Python files
    are never fetched.
    """
    require_addresses()
    from glm_edge.convert.pull.pull import pull

    from .made import welcome

    if gptq:
        refuse_pull(repo, type_)
    check_options(calibrate=calibrate, text=text, imatrix=imatrix)

    def fetch(out: Path | None, type: str, imatrix: Path | None) -> Report:
        with contextlib.ExitStack() as stack:
            return pull(
                repo,
                out,
                type=type,
                revision=revision,
                imatrix=imatrix,
                force=force,
                threads=threads,
                say=lambda line: click.echo(line, err=True),
                progress=_Bar(stack).show,
            )

    if calibrate:
        report = calibrated_pull(repo, out, type_, fetch, text=text, force=force, threads=threads)
    else:
        report = fetch(out, type_, imatrix)
    click.echo(summary(report))
    welcome(report.path)


class _Bar:
    """The progress bar of a pull, shown on a terminal from the first progress on."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._bar: tqdm[NoReturn] | None = None

    def show(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            # `initial`: what earlier runs did says nothing of this one's speed
            shown = bar(total=total, initial=done, unit="B", unit_scale=True)
            self._bar = self._stack.enter_context(shown)
        self._bar.set_description(what, refresh=False)
        self._bar.update(done - self._bar.n)
