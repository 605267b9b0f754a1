"""Load a model for a command, with progress on stderr; Ctrl-C stops it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from ..engine.engine import LlamaEngine
from ..engine.memory_plan import MemoryPlan
from ..errors import EngineClosedError, GlmEdgeError, UnsupportedModelError
from ..llama.ik import VERSION, installed
from ..llama.model import Model, check_types
from ..llama.runtime import runtime
from ..model.checks import model_sizes, model_type
from ..model.gguf import read_gguf
from ..system.device import busy, machine
from ..system.profile import SMALL, WRITABLE, Profile, can_save, load_profile, profile_path, save_profile, tuned
from ..system.threads import no_thread
from ..types import EngineConfig
from ..worker.load_progress import LOAD_PROGRESS
from .demo import DEMO_ID, banner
from .progress import bar, say

T = TypeVar("T")


def profile_key(model: Path) -> dict[str, object]:
    """The conditions of a profile: this kind of machine, these runtimes, and a model of these sizes and type."""
    file = read_gguf(model)
    versions = {**runtime().versions(), "ik_llama_cpp_python": VERSION if installed() else ""}
    return {**machine(), **versions, "model": asdict(model_sizes(file)), "type": model_type(file)}


def with_profile(config: EngineConfig) -> EngineConfig:
    """`config`, its open settings filled in from what `glm-edge bench --tune` has found here."""
    return _filled_in(config, _kept(config.model))


def _kept(model: Path) -> Profile | None:
    """The profile that was measured here with such a model."""
    path = profile_path()
    return load_profile(path, profile_key(model)) if os.access(path, os.R_OK) else None


def _filled_in(config: EngineConfig, kept: Profile | None) -> EngineConfig:
    """`config` with the settings of a profile; as it is where the profile's runtime cannot run all of it."""
    found = tuned(config, kept)
    if found.runtime != config.runtime:
        if config.adapters and not runtime(found.runtime or "llama").takes_cells:
            return config
        try:
            check_types(read_gguf(config.model), runtime(found.runtime or "llama"))
        except UnsupportedModelError:  # a type's name does not say all of its tensors' types
            return config
    return found


def load_engine(config: EngineConfig, *, quiet: bool = False, tune: bool = False) -> LlamaEngine:
    """Load the model of `config`; see LlamaEngine for what it raises.

    Args:
        quiet: no messages about the model, as after a restart, but for what is left out.
        tune: whether to find the fastest settings once, where all is left open that `bench --tune` chooses.
    """
    tune = tune and config.runtime is None and config.n_threads is None and config.huge_pages and not config.rpc

    def load(progress: Callable[[float], bool]) -> LlamaEngine:
        kept = _kept(config.model)
        tuning = partial(_tuned, progress) if tune and kept is None else None
        return LlamaEngine(_filled_in(config, kept), progress, tuning)

    engine = interruptible(load)
    for line in engine.left_out if quiet else engine.warnings:
        click.echo(f"warning: {line}", err=True)
    if not quiet and engine.info.id == DEMO_ID:
        click.echo(banner(engine.info.n_params), err=True)
    return engine


def _tuned(progress: Callable[[float], bool], config: EngineConfig, model: Model, plan: MemoryPlan) -> EngineConfig:
    """`config`, with what a quick tuning finds, which is kept as a profile. `progress` tells when to stop.

    Not where weights are read from the disk again and again: that would be measured.
    """
    path = profile_path()
    if plan.slow or config.model.stat().st_size < SMALL:
        return config
    if not can_save(path):
        say(f"not tuned: {path} cannot be written; {WRITABLE}, or leave it out with --no-tune")
        return config
    if (used := busy()) is not None:
        say(f"not tuned: other programs use {used:.0f} % of the processors; the next start tries again")
        return config
    from ..tools.bench import quick

    say(f"tuning for this machine, once, at most {quick.BUDGET_S:.0f} s (--no-tune leaves it out)")
    try:
        tuner = quick.QuickTuner(config, model, plan, stopped=lambda: not progress(1.0))
        profile = tuner.run()
        if not progress(1.0):
            raise EngineClosedError("the load was stopped")
        took = tuner.seconds
        save_profile(path, profile, profile_key(config.model))
    except EngineClosedError:
        raise
    except GlmEdgeError as error:  # the model runs without it
        say(f"warning: not tuned: {error}")
        return config
    say(f"tuned in {took:.1f} s: {chosen(profile)}; kept in {path}, and glm-edge bench --tune compares more")
    return tuned(config, profile)


def chosen(profile: Profile) -> str:
    """What a tuning chose, in words."""
    costs = dict(profile.batch_costs.seconds) if profile.batch_costs is not None else {}
    shown = [f"{n} rows cost {seconds / costs[1]:.1f} of one" for n, seconds in costs.items() if n > 1]
    flash = "on (it rounds otherwise, so answers may change)" if profile.flash_attention else "off"
    threads = f"threads {profile.n_threads}, {profile.n_threads_batch} for prompts"
    return ", ".join([threads, f"flash attention {flash}", *shown])


def interruptible(load: Callable[[Callable[[float], bool]], T]) -> T:
    """Call `load` in a thread of its own, with a function to report its progress to, which tells it when to stop."""
    with bar("loading", total=100, unit="%", delay=0.5) as shown:

        def work(stopped: threading.Event) -> T:
            def progress(done: float) -> bool:
                shown.update(int(done * 100) - shown.n)
                LOAD_PROGRESS.report(done)
                return not stopped.is_set()

            return load(progress)

        return in_thread(work)


def in_thread(work: Callable[[threading.Event], T]) -> T:
    """Call `work` in a thread of its own, with an event that is set when it is to stop.

    A signal's exception would be lost if it were raised within llama.cpp's callbacks. So the thread that gets signals
    only waits. When it is interrupted, it tells the other to stop, and waits for that.
    """
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            try:
                pool.submit(lambda: None).result()  # a pool does not know a thread whose start a signal has interrupted
            except RuntimeError:  # as in `start`
                raise no_thread("load") from None
            working = pool.submit(work, stopped)
            while not wait([working], timeout=0.2).done:
                pass
        except BaseException:
            stopped.set()
            raise
        return working.result()
