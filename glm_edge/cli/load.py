"""Loading a model for a command: progress on stderr while the weights come in, Ctrl-C included."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import click
from tqdm import tqdm

from ..engine.engine import LlamaEngine
from ..llama.library import versions
from ..system.device import machine
from ..system.profile import load_profile, profile_path, tuned
from ..types import EngineConfig
from .demo import DEMO_ID, banner
from .progress import is_terminal

T = TypeVar("T")


def profile_key() -> dict[str, object]:
    """What a profile holds for: this kind of machine, and this llama.cpp as it was built."""
    return {**machine(), **versions()}


def with_profile(config: EngineConfig) -> EngineConfig:
    """`config` with what it leaves open as `glm-edge bench --tune` found it best here, if it was run."""
    return tuned(config, load_profile(profile_path(), profile_key()))


def load_engine(config: EngineConfig, *, quiet: bool = False) -> LlamaEngine:
    """Load the model of `config`; see LlamaEngine for what it raises.

    Args:
        quiet: say nothing about the model; it has been said.
    """
    engine = interruptible(lambda progress: LlamaEngine(with_profile(config), progress))
    if quiet:
        return engine
    if engine.plan.slow:
        click.echo(f"warning: {engine.plan.warning}", err=True)
    if engine.info.id == DEMO_ID:
        click.echo(banner(engine.info.n_params), err=True)
    return engine


def interruptible(load: Callable[[Callable[[float], bool]], T]) -> T:
    """Call `load` with a function that it reports to, showing how far it is, in a thread of its own.

    A signal's exception that is raised between two of llama.cpp's own steps would be lost in its callbacks. Here the
    thread that gets signals only waits; when it is interrupted the load is told to stop, and is waited for.
    """
    stopped = threading.Event()
    with (
        tqdm(total=100, desc="loading", unit="%", disable=not is_terminal(sys.stderr), leave=False, delay=0.5) as bar,
        ThreadPoolExecutor(1) as pool,
    ):

        def progress(done: float) -> bool:
            bar.update(int(done * 100) - bar.n)
            return not stopped.is_set()

        try:
            loading = pool.submit(load, progress)
            while not wait([loading], timeout=0.2).done:
                pass
        except BaseException:
            stopped.set()
            raise
        return loading.result()
