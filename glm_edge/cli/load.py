"""Loading a model for a command: progress on stderr while the weights come in, Ctrl-C included."""

from __future__ import annotations

import sys

import click
from tqdm import tqdm

from ..engine.engine import LlamaEngine
from ..types import EngineConfig
from .demo import DEMO_ID, banner


def load_engine(config: EngineConfig) -> LlamaEngine:
    """Load the model of `config`; see LlamaEngine for what it raises."""
    shown = sys.stderr.isatty()
    with tqdm(total=100, desc="loading", unit="%", disable=not shown, leave=False, delay=0.5) as bar:

        def progress(done: float) -> bool:
            bar.update(int(done * 100) - bar.n)
            return True

        engine = LlamaEngine(config, progress)
    if engine.info.id == DEMO_ID:
        click.echo(banner(engine.info.n_params), err=True)
    return engine
