"""`glm-edge bundle`: all that a machine without a network needs, in a folder or an archive, by `tools/bundle`."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import click

from ..errors import UsageError
from ..tools.bundle.wheels import PYTHONS
from ..tools.runtime.compiler import MACHINES
from .number import OneOf
from .progress import progress_bar


@click.command("bundle")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--model",
    "models",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A GGUF file, with its prefixes; repeatable: the first becomes the default.  [default: the demo model]",
)
@click.option(
    "--adapter",
    "adapters",
    type=click.Path(path_type=Path),
    multiple=True,
    help="A file of convert-adapter for one of the models; repeatable. They go to models/adapters.",
)
@click.option(
    "--for",
    "target",
    type=OneOf([f"linux-{machine}" for machine in MACHINES]),
    help="What it is to run on.  [default: this machine's architecture]",
)
@click.option(
    "--python",
    "pythons",
    type=OneOf(PYTHONS),
    multiple=True,
    help="A Python that may be there; repeatable.  [default: this one's version]",
)
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    metavar="WHEEL",
    help="What `glm-edge runtime` built.  [default: built now, and kept]",
)
@click.option(
    "--ik", is_flag=True, help="With ik_llama.cpp, for --runtime ik and bench --tune there: 25 MB more, on x86-64."
)
def command(
    out: Path,
    models: tuple[Path, ...],
    adapters: tuple[Path, ...],
    target: str | None,
    pythons: tuple[str, ...],
    runtime: Path | None,
    ik: bool,
) -> None:
    """Make OUT, a folder or a .tar file with everything that a machine without a network needs.

    There install.sh installs it, without root, pip or a compiler. Packages come from the package index, by hash. A
    bundle that is interrupted goes on where it was; the same input gives the same files.
    """
    import platformdirs

    from ..tools.bundle.bundle import Task, bundle
    from .model import resolve_model

    machine = (target or f"linux-{platform.machine()}").removeprefix("linux-")
    if machine not in MACHINES:
        raise UsageError(f"{machine}: there is no bundle for this architecture; choose one with --for")
    here = ".".join(map(str, sys.version_info[:2]))
    if not pythons and here not in PYTHONS:
        raise UsageError(f"there is no bundle for Python {here}; choose one with --python")
    if models:
        files = tuple(resolve_model(model) for model in models)
    else:
        from .demo import demo_model

        files = (demo_model(),)
    cache = Path(platformdirs.user_cache_dir("glm-edge", appauthor=False)) / "wheels"
    python = tuple(dict.fromkeys(pythons)) or (here,)
    task = Task(Path(os.path.abspath(out)), files, machine, python, runtime, cache, adapters, ik)
    made = bundle(task, progress_bar)
    for line in made.warnings:
        click.echo(f"warning: {line}", err=True)
    click.echo(
        f"{out}: {made.files} files, {made.size / 1e9:.2f} GB, for linux-{machine} with glibc {made.glibc} and Python"
        f" {' or '.join(task.pythons)}; carry it there and run: sh install.sh"
    )
