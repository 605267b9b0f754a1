"""Loading a model for a command: progress on stderr while the weights come in, Ctrl-C included."""

from __future__ import annotations

import sys
from typing import TextIO

import click
from tqdm import tqdm

from ..device import machine
from ..engine.engine import LlamaEngine
from ..llama import versions
from ..profile import load_profile, profile_path, tuned
from ..types import EngineConfig
from .demo import DEMO_ID, banner


def profile_key() -> dict[str, object]:
    """What a profile holds for: this kind of machine, and this llama.cpp as it was built."""
    return {**machine(), **versions()}


def with_profile(config: EngineConfig) -> EngineConfig:
    """`config` with what it leaves open as `glm-edge bench --tune` found it best here, if it was run."""
    return tuned(config, load_profile(profile_path(), profile_key()))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits there; a stream that was closed before the start is None."""
    return stream is not None and stream.isatty()


def load_engine(config: EngineConfig) -> LlamaEngine:
    """Load the model of `config`; see LlamaEngine for what it raises."""
    shown = is_terminal(sys.stderr)
    with tqdm(total=100, desc="loading", unit="%", disable=not shown, leave=False, delay=0.5) as bar:

        def progress(done: float) -> bool:
            bar.update(int(done * 100) - bar.n)
            return True

        engine = LlamaEngine(with_profile(config), progress)
    if engine.plan.slow:
        click.echo(f"warning: {engine.plan.warning}", err=True)
    if engine.info.id == DEMO_ID:
        click.echo(banner(engine.info.n_params), err=True)
    return engine
