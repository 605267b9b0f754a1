"""Loading a model for a command: progress on stderr while the weights come in, Ctrl-C included."""

from __future__ import annotations

import sys

from tqdm import tqdm

from ..engine.engine import LlamaEngine
from ..types import EngineConfig


def load_engine(config: EngineConfig) -> LlamaEngine:
    """Load the model of `config`; see LlamaEngine for what it raises."""
    shown = sys.stderr.isatty()
    with tqdm(total=100, desc="loading", unit="%", disable=not shown, leave=False, delay=0.5) as bar:

        def progress(done: float) -> bool:
            bar.update(int(done * 100) - bar.n)
            return True

        return LlamaEngine(config, progress)
