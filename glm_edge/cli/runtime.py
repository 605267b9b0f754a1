"""`glm-edge runtime`: llama.cpp for every processor of an architecture, as one wheel; `tools/runtime` does the work."""

from __future__ import annotations

import platform
from pathlib import Path

import click

from ..tools.runtime.compiler import MACHINES
from .number import OneOf
from .progress import progress_bar


@click.command("runtime")
@click.option(
    "--for",
    "machine",
    type=OneOf([f"linux-{machine}" for machine in MACHINES]),
    help="What it is to run on.  [default: this machine's architecture]",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path(), help="Folder for the wheel.  [default: here]")
@click.option(
    "--vulkan", is_flag=True, help="With llama.cpp's Vulkan backend, for --runtime vulkan and bench --tune on a GPU."
)
def command(machine: str | None, out: Path, vulkan: bool) -> None:
    """Build llama-cpp-python for every processor of an architecture.

    The wheel holds a library for each kind of processor; the best one is chosen at start. It needs no compiler where
    it is installed. Building it needs Linux, the package index, and about 10 minutes on two cores; with --vulkan twice
    that, and libvulkan-dev, spirv-headers, glslc and g++.
    """
    from ..tools.runtime.build import build

    with progress_bar("runtime", unit=" steps") as progress:
        wheel = build((machine or f"linux-{platform.machine()}").removeprefix("linux-"), out, progress, vulkan=vulkan)
    click.echo(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB; install it with: pip install {wheel}")
