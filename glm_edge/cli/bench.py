"""`glm-edge bench`: measure how fast a model runs on this machine, and find its fastest settings (`--tune`)."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import StorageError, UsageError
from ..system.address_space import require_addresses
from ..types import EngineConfig, RuntimeName
from .model import huge_pages_option, model_option, runtime_option
from .number import ThreadCount, WholeNumber
from .progress import bar

if TYPE_CHECKING:
    from ..tools.bench.subjects import BenchTask

_DEPTHS = (512, 1024, 2048, 4096, 8192)  # tokens of context that --plot shows, as far as the context goes
_SPARE = 64  # tokens of context beside a prompt: a second turn, an answer's start


@click.command("bench")
@model_option
@click.option("--ctx", "n_ctx", type=WholeNumber(256), help="Tokens of context.")
@click.option(
    "--threads", type=ThreadCount(), help="Threads that compute.  [default: the profile's, or one for each big core]"
)
@runtime_option
@huge_pages_option
@click.option("--runs", type=WholeNumber(1, 100), help="The table shows medians.  [default: 3; 1 on slow machines]")
@click.option("--prompt", type=WholeNumber(32), default=512, show_default=True, help="Tokens of the long prompt.")
@click.option("--tokens", type=WholeNumber(8), default=32, show_default=True, help="Tokens of an answer.")
@click.option("--streams", default="1,2,4,8", show_default=True, help="Answers at the same time; empty for none.")
@click.option("--adapter", type=click.Path(path_type=Path), help="Answer with this adapter of convert-adapter.")
@click.option("--bare", is_flag=True, help="Measure a bare llama_decode loop beside the engine.")
@click.option("--mapped", is_flag=True, help="Map the weights without repacking them, as where memory is short.")
@click.option("--compare", is_flag=True, help="Measure llama_cpp.Llama on the same file, in turn.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Also draw a PNG; needs glm-edge[plot].")
@click.option("--tune", is_flag=True, help="Only find the fastest settings for this machine and model, and save them.")
@click.option("--reset", is_flag=True, help="Only forget what --tune has saved.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on stdout; the table goes to stderr.")
def command(
    model: Path | None,
    n_ctx: int | None,
    threads: int | None,
    runtime: RuntimeName | None,
    huge_pages: bool,
    runs: int | None,
    prompt: int,
    tokens: int,
    streams: str,
    adapter: Path | None,
    bare: bool,
    mapped: bool,
    compare: bool,
    plot_file: Path | None,
    tune: bool,
    reset: bool,
    as_json: bool,
) -> None:
    """Measure a model on this machine.

    Each run loads the model twice, in processes of their own; where one takes more than a minute, one is enough without
    --runs. Close other programs: they change the figures more than anything else.
    """
    if reset:
        _reset()
        return
    require_addresses()
    from .load import with_profile
    from .model import resolve_model

    counts = _counts(streams)
    path = resolve_model(model)
    if tune:
        _tune(EngineConfig(path, runtime=runtime, huge_pages=huge_pages, n_ctx=n_ctx), as_json=as_json)
        return
    if plot_file is not None:
        from ..tools.bench.plot import check_plot

        check_plot(plot_file)
    config = EngineConfig(
        path,
        runtime=runtime,
        huge_pages=huge_pages,
        n_ctx=n_ctx,
        n_threads=threads,
        load_mode="mmap" if mapped else None,
        slots=max(counts, default=1),
        queue=32,
        prompt_lookup=False,
        adapters=() if adapter is None else (("adapter", adapter),),
    )
    config = with_profile(config)
    _bench(config, runs, prompt, tokens, counts, bare=bare, compare=compare, plot_file=plot_file, as_json=as_json)


def _bench(
    config: EngineConfig,
    runs: int | None,
    prompt: int,
    tokens: int,
    streams: tuple[int, ...],
    *,
    bare: bool,
    compare: bool,
    plot_file: Path | None,
    as_json: bool,
) -> None:
    from dataclasses import replace

    from ..engine.memory_plan import plan_memory, sequence_count, weights_of
    from ..llama.kernels import amx_unused
    from ..llama.runtime import runtime
    from ..model.checks import check_model
    from ..model.gguf import read_gguf
    from ..system.device import memory_available
    from ..tools.bench.report import describe, json_line, load_average, recipe_text, table, with_shares
    from ..tools.bench.run import benchmark
    from ..tools.bench.subjects import BenchTask, threads
    from ..tools.doctor.runtime import AMX_UNUSED

    file = read_gguf(config.model)
    check_model(file)
    # planned once, so that every subject has the same context
    plan = plan_memory(config, weights_of(file), sequences=sequence_count(config.slots), available=memory_available())
    if prompt + tokens + _SPARE > plan.n_ctx:
        raise UsageError(
            f"--prompt {prompt} and --tokens {tokens}: must leave {_SPARE} of the context's {plan.n_ctx} tokens free"
        )
    depths = tuple(n for n in (*_DEPTHS, plan.n_ctx - _SPARE) if n <= plan.n_ctx - _SPARE) if plot_file else ()
    task = BenchTask(replace(config, n_ctx=plan.n_ctx), prompt, tokens, streams, tuple(sorted(set(depths))), bare)
    click.echo(f"measuring {file.path.name}: {_often(runs)}; each: {_steps(task)}", err=True)
    before = load_average()
    with _progress("measuring", 0) as shown:

        def plan_work(units: float) -> None:
            shown.total += units
            shown.refresh()

        result = benchmark(task, runs, compare=compare, plan=plan_work, tell=shown.update)
    after = load_average()
    with _progress("hashing", file.size) as shown:
        about = describe(task, file, shown.update)
    figures = with_shares(result.medians)
    one, many = threads(task.config)
    click.echo(
        f"{file.path.name}, {recipe_text(file)}; threads {one}, {many} for prompts; context {plan.n_ctx}, batch"
        f" {plan.n_batch}; weights {'repacked' if plan.repack else 'mapped'};"
        f" {runtime(config.runtime or 'llama').title}\n"
        f"medians of {len(result.runs)}; load average {before:.1f} before, {after:.1f} after",
        err=as_json,
    )
    click.echo(table(figures, prompt), err=as_json)
    if config.runtime in (None, "llama") and amx_unused():
        click.echo(f"note: {AMX_UNUSED}", err=True)
    if as_json:
        click.echo(json_line(about, result, (before, after)))
    if plot_file is not None:
        from ..tools.bench.plot import plot

        plot(plot_file, figures["engine"], about)


def _often(runs: int | None) -> str:
    """How many runs there will be, for the user who waits."""
    from ..tools.bench.run import RUNS, SHORT_S

    if runs is None:
        return f"{RUNS} runs, or 1 that takes more than {SHORT_S:.0f} s"
    return "1 run" if runs == 1 else f"{runs} runs"


def _steps(task: BenchTask) -> str:
    """What one run does, for the user who waits."""
    streams = ", ".join(map(str, task.streams))
    steps = [
        f"load, read {task.prompt} tokens, write {task.answer}, a second turn",
        f"write {task.answer} each in {streams} streams" if streams else "",
        "read a long prompt beside an answer (first run only)" if task.config.slots > 1 else "",
        f"read on to {task.depths[-1]} tokens (first run only)" if task.depths else "",
        "load and read again",
    ]
    return "; ".join(step for step in steps if step)


def _tune(config: EngineConfig, *, as_json: bool) -> None:
    from dataclasses import asdict

    from ..model.checks import model_sizes
    from ..model.gguf import read_gguf
    from ..system.profile import profile_path, save_profile
    from ..tools.bench.child import in_child
    from ..tools.bench.tune import Way, tune, units, ways
    from ..tools.doctor.speeds import CHATGLM2_6B
    from .load import chosen, profile_key

    warn_if_busy()
    with _progress("tuning", units(ways(config))) as shown:
        tuning = in_child(tune, config, tell=shown.update)
    for name, tried in tuning.figures.items():
        speeds = "; ".join(f"{value}: {1 / seconds:.2f}" for value, seconds in tried.items())
        click.echo(f"{name}, tokens/s: {speeds}", err=as_json)
    profile = tuning.profile
    way = Way(profile.runtime, profile.load_mode, profile.huge_pages)
    click.echo(f"chosen: {way.name}, {chosen(profile)}, batches of {profile.n_batch}", err=as_json)
    save_profile(profile_path(), profile, profile_key(config.model))
    click.echo(f"saved in {profile_path()}", err=True)
    if model_sizes(read_gguf(config.model)) == CHATGLM2_6B:
        _recommend_type()
    if as_json:
        click.echo(json.dumps({"profile": asdict(profile), "seconds_per_token": tuning.figures}))


def _recommend_type() -> None:
    """Say which type of four bits would be fastest here: predicted from measured products, as by the doctor."""
    from ..tools.bench.tune import REQUEST
    from ..tools.doctor.examine import rated_types
    from ..tools.doctor.host import Host
    from ..tools.doctor.speeds import recommended

    types = rated_types(Host())
    best = recommended(types, *REQUEST)
    if best is None:
        click.echo("types: not measured in time; glm-edge doctor has them", err=True)
        return
    speeds = ", ".join(f"{fit.name} {fit.prefill:.1f} and {fit.decode:.2f}" for fit in types if fit.decode is not None)
    click.echo(
        f"types, reading and writing, tokens/s, as llama.cpp's measured products predict: {speeds}; fastest of four"
        f" bits: {best.name}",
        err=True,
    )


def warn_if_busy() -> None:
    """Say it where other programs compute: what is fastest beside them is not fastest alone."""
    from ..system.device import busy

    used = busy()
    if used is not None:
        click.echo(
            f"warning: other programs use {used:.0f} % of the processors, so the result may be wrong;"
            " close them and tune again",
            err=True,
        )


def _reset() -> None:
    """Forget the profile."""
    from ..system.profile import profile_path

    path = profile_path()
    try:
        path.unlink()
    except FileNotFoundError:
        click.echo("nothing was saved")
    except OSError as error:
        raise StorageError(f"{path}: cannot be removed: {error.strerror}") from error
    else:
        click.echo(f"removed {path}")


def _counts(text: str) -> tuple[int, ...]:
    """The numbers of a list like 1,2,4."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and 1 <= int(part) <= 16 for part in parts):
        raise UsageError(f"--streams {text}: must be numbers from 1 to 16 with commas between them")
    return tuple(int(part) for part in parts)


def _progress(what: str, total: float) -> AbstractContextManager[Any]:
    """A bar with the time left."""
    shown = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} so far, {remaining} left"
    return bar(what, total=total, smoothing=0, bar_format=shown)
