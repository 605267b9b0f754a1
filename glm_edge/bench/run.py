"""The whole benchmark: every subject in turn, run after run, one process at a time; medians over the runs."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .child import Tell, in_child
from .subjects import Figures, Task, measure_engine, measure_llama_cpp, measure_restart

Subject = tuple[str, Callable[..., Figures]]


@dataclass(frozen=True)
class Result:
    """Medians by subject and figure, and what each run gave."""

    medians: dict[str, Figures]
    runs: list[dict[str, Figures]]


def benchmark(task: Task, runs: int, *, compare: bool, tell: Tell) -> Result:
    """Raises what loading the model raises.

    Args:
        task: for the first run; the others have other prompts, and measure the depths no more.
        tell: told of units of work done; `units` says how many there will be.
    """
    results: list[dict[str, Figures]] = []
    for run in range(runs):
        with tempfile.TemporaryDirectory(prefix="glm-edge-bench-") as folder:
            config = replace(task.config, cache_folder=Path(folder))
            own = replace(task, config=config, seed=run, depths=task.depths if run == 0 else ())
            subjects: list[tuple[str, Callable[..., Figures]]] = [
                ("engine", measure_engine),
                ("engine", measure_restart),
            ]
            if compare:
                # first in every second run, so that neither always finds the machine as the other left it
                subjects.insert(0 if run % 2 else 2, ("llama_cpp", measure_llama_cpp))
            found: dict[str, Figures] = {}
            for name, measure in subjects:
                found.setdefault(name, {}).update(in_child(measure, own, tell=tell))
            results.append(found)
    return Result({name: _medians([found[name] for found in results]) for name in results[0]}, results)


def units(task: Task, runs: int, *, compare: bool) -> float:
    """Work of a benchmark: about a prompt token each; a token of an answer counts as three."""
    answer = 3 * task.answer
    one = task.prompt + 32 + answer + sum(n * (32 + task.answer) for n in task.streams) + task.prompt
    if task.bare:
        one += 3 * task.prompt + answer
    if compare:
        one += task.prompt + 32 + answer
    return runs * one + max(task.depths, default=0) + 1500


def _medians(runs: list[Figures]) -> Figures:
    """The median of each figure over the runs that have it."""
    names = dict.fromkeys(name for figures in runs for name in figures)
    return {name: statistics.median(f[name] for f in runs if name in f) for name in names}
