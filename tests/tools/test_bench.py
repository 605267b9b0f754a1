"""`glm-edge bench` on the tiny model: what it prints, that its figures add up, and what it refuses."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from glm_edge.cli.bench import warn_if_busy
from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import EngineError, OutOfMemoryError
from glm_edge.system.device import Processors
from glm_edge.tools.bench.asking import WORD, ask
from glm_edge.tools.bench.child import in_child
from glm_edge.tools.bench.report import table
from glm_edge.tools.bench.run import benchmark, medians, units
from glm_edge.tools.bench.subjects import BenchTask
from glm_edge.tools.bench.tune import fastest, thread_counts, tune
from glm_edge.types import EngineConfig, Message, Request, SamplingParams
from support.engines.child_functions import die, out_of_memory
from support.server.live_server import eventually
from support.unmeasured import unmeasured


def bench(*options: str | Path, config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "glm_edge", "bench", *map(str, options)]
    env = os.environ | {"XDG_CONFIG_HOME": str(config), "OMP_WAIT_POLICY": "passive"}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_with_json_bench_prints_one_line_and_the_table_elsewhere(tiny_q4_0: Path, tmp_path: Path) -> None:
    options = ("--runs", "1", "--prompt", "160", "--tokens", "8", "--streams", "1,2", "--threads", "1", "--ctx", "512")
    done = bench("--model", tiny_q4_0, *options, "--bare", "--compare", "--json", config=tmp_path)
    assert done.returncode == 0, done.stderr
    assert any(row.startswith("decode, tokens/s") for row in done.stderr.splitlines())
    (only,) = done.stdout.splitlines()
    line = json.loads(only)
    assert line["threads"] == [1, 1]
    assert line["file_bytes"] == tiny_q4_0.stat().st_size
    assert line["recipe"]["q4_0"] > 0
    own, other = line["medians"]["engine"], line["medians"]["llama_cpp"]
    assert own["decode_to_bare"] == pytest.approx(own["decode_rate"] / own["bare_decode_rate"])
    assert own["restart_cached_tokens"] >= 150  # the prompt, but for its last token and what a digit may be off
    assert own.keys() > {"load_s", "peak_bytes", "prefill_rate", "cold_ttft_s", "warm_ttft_s", "streams_2_rate"}
    assert other.keys() > {"load_s", "peak_bytes", "prefill_rate", "decode_rate"}
    assert "measuring tiny-q4_0.gguf: 1 run; each: load, read 160 tokens, write 8, a second turn;" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("short", "runs"), [(60.0, 3), (0.0, 1)], ids=["fast", "slow"])
def test_runs_are_repeated_where_that_takes_no_minutes(tiny_q4_0: Path, short: float, runs: int) -> None:
    task = BenchTask(EngineConfig(tiny_q4_0, n_ctx=256, n_threads=1, prompt_lookup=False), prompt=40, answer=8)
    planned: list[float] = []
    result = benchmark(task, None, compare=False, plan=planned.append, tell=planned.append, short_s=short)
    assert len(result.runs) == runs


def test_work_told_while_an_answer_is_made_is_what_it_took(tiny_q4_0: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_q4_0, n_ctx=2048, n_threads=1, n_batch=32))
    told: list[float] = []
    long = Request((Message("user", "water " * 1900),), SamplingParams(0), 2)
    stats, _ = ask(engine, long, told.append)
    engine.close()
    assert stats.prompt_tokens <= sum(told) <= stats.prompt_tokens + WORD * 2


def test_depths_are_measured_each_on_top_of_the_one_before(tiny_q4_0: Path) -> None:
    config = EngineConfig(tiny_q4_0, n_ctx=512, n_threads=1, prompt_lookup=False)
    task = BenchTask(config, prompt=40, answer=8, depths=(64, 128))
    planned: list[float] = []
    done: list[float] = []
    figures = benchmark(task, 1, compare=False, plan=planned.append, tell=done.append).medians["engine"]
    assert {"depth_64_decode_rate", "depth_128_prefill_rate"} <= figures.keys()
    assert 0.3 * sum(planned) < sum(done) <= sum(planned) == units(task, 0, compare=False)
    assert "restart_ttft_s" not in figures  # so short a prompt is not kept on disk


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--streams", "1,x"], "--streams 1,x: must be numbers from 1 to 16"),
        (["--streams", "17"], "--streams 17: must be numbers from 1 to 16"),
        (["--prompt", "500", "--ctx", "512"], "--prompt 500 and --tokens 32: must leave 64"),
        (["--plot", "curve.pdf"], "--plot curve.pdf: must end in .png"),
    ],
)
def test_bench_refuses_before_it_measures(tiny_q4_0: Path, tmp_path: Path, options: list[str], message: str) -> None:
    done = bench("--model", tiny_q4_0, *options, config=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_plot_is_drawn_or_says_what_to_install(tiny_q4_0: Path, tmp_path: Path) -> None:
    options = ("--runs", "1", "--prompt", "64", "--tokens", "8", "--streams", "1,2", "--threads", "1", "--ctx", "1024")
    done = bench("--model", tiny_q4_0, *options, "--plot", tmp_path / "curve.png", config=tmp_path)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert done.returncode == 2
        assert done.stderr == "error: --plot needs matplotlib; install it with: pip install 'glm-edge[plot]'\n"
    else:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_tuning_is_kept_and_used(tiny_q4_0: Path, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("the folder of settings can be moved by the environment on Linux only")
    done = bench("--model", tiny_q4_0, "--ctx", "256", "--tune", "--json", config=tmp_path)
    assert done.returncode == 0, done.stderr
    profile = json.loads(done.stdout)["profile"]
    assert json.loads((tmp_path / "glm-edge" / "profile.json").read_text())["profiles"][0]["profile"] == profile
    options = ("--runs", "1", "--prompt", "32", "--tokens", "8", "--streams", "")
    used = bench("--model", tiny_q4_0, *options, config=tmp_path)  # without --json none is printed
    assert f"threads {profile['n_threads']}, {profile['n_threads_batch']} for prompts" in used.stdout
    assert f"batch {profile['n_batch']};" in used.stdout
    assert not any(row.startswith("{") for row in used.stdout.splitlines())
    assert bench("--reset", config=tmp_path).stdout == f"removed {tmp_path / 'glm-edge' / 'profile.json'}\n"
    assert bench("--reset", config=tmp_path).stdout == "nothing was saved\n"


def test_the_batch_that_memory_allows_is_a_candidate_whatever_its_size(tiny_q4_0: Path) -> None:
    tuning = tune(EngineConfig(tiny_q4_0, n_ctx=256, n_batch=96, runtime="llama"), lambda done: None)
    assert set(tuning.figures["batch"]) == {"96", "64"}


@pytest.mark.parametrize("used", [0.0, 60.0])
def test_tuning_warns_on_a_busy_machine(
    used: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: used)
    warn_if_busy()
    assert capsys.readouterr().err.startswith("warning: other programs use 60 % of the processors") == (used > 0)


@pytest.mark.skipif(sys.platform != "linux", reason="sees in /proc what a process has loaded")
@pytest.mark.parametrize("library", ["", "_multiprocessing", "numpy", "libllama"])
def test_ctrl_c_is_one_line_whatever_the_measuring_process_does(tiny_q4_0: Path, tmp_path: Path, library: str) -> None:
    """At its start, or as soon as it has loaded a library."""
    command = [sys.executable, "-m", "glm_edge", "bench", "--model", str(tiny_q4_0), "--threads", "1"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path, env=unmeasured()
    ) as process:
        assert eventually(lambda: any(library in maps for maps in measuring(process.pid)), 60)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "error: interrupted"
    assert "multiprocessing" not in stderr


def measuring(parent: int) -> list[str]:
    """The memory maps of the measuring process; empty while there is none."""
    found = []
    for child in psutil.Process(parent).children():
        with contextlib.suppress(psutil.Error, OSError):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(Path(f"/proc/{child.pid}/maps").read_text("utf-8"))
    return found


@pytest.mark.parametrize(
    ("cpus", "counts"),
    [
        (Processors(2, 2, 2, None), [2, 1]),
        (Processors(16, 8, 8, None), [8, 16, 7]),
        (Processors(8, 8, 4, None), [4, 8, 3]),
        (Processors(8, 8, 8, 2.5), [2]),
        (Processors(1, 1, 1, None), [1]),
    ],
    ids=["two cores", "two threads a core", "big.LITTLE", "quota", "one core"],
)
def test_thread_counts_that_are_tried(cpus: Processors, counts: list[int]) -> None:
    assert thread_counts(cpus) == counts


def test_default_stays_unless_another_is_clearly_faster() -> None:
    assert fastest({2: [1.0, 1.1, 5.0], 1: [1.09, 1.09, 1.09]}, 2) == 2
    assert fastest({2: [1.0, 1.1, 5.0], 1: [1.0, 1.0, 1.0]}, 2) == 1


def test_table_compares_two_subjects() -> None:
    text = table({"engine": {"decode_rate": 9.0}, "llama_cpp": {"decode_rate": 6.0}}, 512)
    assert text.splitlines()[1].split() == ["decode,", "tokens/s", "9.00", "6.00", "1.500"]


def test_medians_are_over_the_runs_that_have_a_figure() -> None:
    assert medians([{"a": 1, "b": 5}, {"a": 3}, {"a": 2}]) == {"a": 2, "b": 5}


def test_error_in_a_measuring_process_is_the_callers() -> None:
    with pytest.raises(OutOfMemoryError, match="too large"):
        in_child(out_of_memory, tell=lambda units: None)


def test_death_of_a_measuring_process_is_an_error() -> None:
    with pytest.raises(EngineError, match="ended with code 9"):
        in_child(die, tell=lambda units: None)
