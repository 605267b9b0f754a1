"""The whole benchmark: every subject in turn, run after run, one process at a time; medians of the runs."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .asking import LOAD, WORD
from .child import in_child
from .subjects import ARRIVING, BenchTask, Figures, measure_engine, measure_llama_cpp, measure_restart

RUNS = 3
SHORT_S = 60.0


@dataclass(frozen=True)
class Result:
    """The result of a benchmark: medians by subject and figure, and the figures of each run."""

    medians: dict[str, Figures]
    runs: list[dict[str, Figures]]


def benchmark(
    task: BenchTask,
    runs: int | None,
    *,
    compare: bool,
    plan: Callable[[float], object],
    tell: Callable[[float], object],
    short_s: float = SHORT_S,
) -> Result:
    """Run the benchmark. Raises what loading the model raises.

    Args:
        task: of the first run. The others have other prompts, and do not measure depths and arrival again.
        runs: None: RUNS, or one if that takes more than `short_s` seconds.
        plan: called with units of work to come; again when there are more.
        tell: called with units of work done.
    """
    results: list[dict[str, Figures]] = []
    began = time.monotonic()
    wanted = runs or 1
    plan(sum(units(task, run, compare=compare) for run in range(wanted)))
    while len(results) < wanted:
        results.append(_run(task, len(results), compare=compare, tell=tell))
        if runs is None and wanted == 1 and time.monotonic() - began <= short_s:
            wanted = RUNS
            plan(sum(units(task, run, compare=compare) for run in range(1, wanted)))
    return Result({name: medians([found[name] for found in results]) for name in results[0]}, results)


def _run(task: BenchTask, run: int, *, compare: bool, tell: Callable[[float], object]) -> dict[str, Figures]:
    """The figures of each subject."""
    with tempfile.TemporaryDirectory(prefix="glm-edge-bench-") as folder:
        config = replace(task.config, cache_folder=Path(folder))
        own = replace(task, config=config, seed=run, depths=task.depths if run == 0 else ())
        subjects: list[tuple[str, Callable[..., Figures]]] = [
            ("engine", measure_engine),
            ("engine", measure_restart),
        ]
        if compare:
            # in turn, so that neither subject always runs after the other
            subjects.insert(0 if run % 2 else 2, ("llama_cpp", measure_llama_cpp))
        found: dict[str, Figures] = {}
        for name, measure in subjects:
            found.setdefault(name, {}).update(in_child(measure, own, tell=tell))
    return found


def units(task: BenchTask, run: int, *, compare: bool) -> float:
    """Upper bound of the work of run number `run`, from 0; units as in `asking.py`."""
    answer = WORD * (task.answer + 8)
    one = 2 * LOAD + task.prompt + 200 + 2 * answer + 32 * max(task.streams, default=0)
    one += sum(n * (task.answer + WORD) for n in task.streams)
    if task.bare:
        one += 3 * task.prompt + answer
    if compare:
        one += LOAD + task.prompt + 32 + answer
    if run == 0:
        one += max(task.depths, default=0) + 20 * WORD * len(task.depths)
        if task.config.slots > 1:
            one += min(ARRIVING, (task.config.n_ctx or 2 * ARRIVING) // 2)
    return one


def medians(runs: list[Figures]) -> Figures:
    """The median of each figure over the runs that have it."""
    names = dict.fromkeys(name for figures in runs for name in figures)
    return {name: statistics.median(f[name] for f in runs if name in f) for name in names}
