"""The quick tuning of a first start: it keeps its time on any clock, is kept itself, and stays out of the way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import psutil
import pytest

import glm_edge.cli.load as load
import glm_edge.tools.bench.quick as quick
from glm_edge.cli.load import chosen, load_engine, profile_key
from glm_edge.engine.engine import open_model
from glm_edge.engine.memory_plan import MemoryPlan, plan_memory, weights_of
from glm_edge.llama.model import Model
from glm_edge.model.gguf import read_gguf
from glm_edge.system.device import processors
from glm_edge.system.profile import Profile, load_profile, profile_path, save_profile
from glm_edge.tools.bench.quick import QuickTuner
from glm_edge.tools.bench.tune import ROWS
from glm_edge.types import BatchCosts, EngineConfig

linux = pytest.mark.skipif(sys.platform != "linux", reason="the folder of settings is moved by the environment there")


@dataclass
class Loaded:
    config: EngineConfig
    model: Model
    plan: MemoryPlan

    def tuner(self, clock: Callable[[], float], stopped: Callable[[], bool] = lambda: False) -> QuickTuner:
        return QuickTuner(self.config, self.model, self.plan, stopped=stopped, clock=clock)


@pytest.fixture(scope="module")
def loaded(tiny_q4_0: Path) -> Iterator[Loaded]:
    config = EngineConfig(tiny_q4_0, n_ctx=256)
    plan = plan_memory(config, weights_of(read_gguf(tiny_q4_0)), sequences=1, available=8 << 30)
    with closing(open_model(config, plan)) as model:
        yield Loaded(config, model, plan)


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that goes on by so much whenever it is looked at."""
    ticks = count()
    return lambda: next(ticks) * seconds


def test_where_there_is_time_all_is_measured(loaded: Loaded) -> None:
    found = loaded.tuner(ticking(0)).run()
    assert found.quick
    assert found.n_batch is None
    assert found.batch_costs is not None
    assert tuple(n for n, _ in found.batch_costs.seconds) == ROWS
    assert found.batch_costs.repacked == loaded.plan.repack


@pytest.mark.parametrize("tick", [0.01, 0.5, 20.0])  # seconds at each look, one of which is at each node of the graph
def test_the_budget_ends_a_batch_in_its_middle(loaded: Loaded, tick: float) -> None:
    tuner = loaded.tuner(ticking(tick))
    tuner.run()
    assert tuner.seconds < quick.BUDGET_S + 100 * tick  # what is left to do between batches looks at the clock, too


def test_where_a_step_takes_longer_than_there_is_time_the_defaults_are_kept(loaded: Loaded) -> None:
    best = processors().best
    expected = Profile(best, best, None, flash_attention=False, runtime="llama", quick=True)
    found = loaded.tuner(ticking(20.0)).run()
    assert found == replace(expected, batch_costs=BatchCosts(loaded.plan.repack, ()))


def test_a_tuning_that_is_stopped_computes_nothing_more(loaded: Loaded) -> None:
    asked: list[None] = []

    def stopped() -> bool:
        asked.append(None)
        return True

    loaded.tuner(ticking(0), stopped).run()
    assert len(asked) < 50  # once a batch, where a whole one asks hundreds of times


@linux
def test_a_small_model_is_not_tuned(tiny_q4_0: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_engine(EngineConfig(tiny_q4_0, n_ctx=256), tune=True).close()
    assert capsys.readouterr().err == ""
    assert not profile_path().exists()


@linux
def test_a_first_start_tunes_and_the_second_does_not(
    tiny_q4_0: Path, own_settings: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 0.0)
    monkeypatch.setattr(load, "SMALL", 0)
    config = EngineConfig(tiny_q4_0, n_ctx=256)
    load_engine(config, tune=True).close()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "tuning for this machine, once, at most 10 s (--no-tune leaves it out)"
    assert second.startswith("tuned in ")
    assert f"; kept in {profile_path()}, and glm-edge bench --tune compares more" in second
    kept = load_profile(profile_path(), profile_key(tiny_q4_0))
    assert kept is not None
    assert kept.quick
    load_engine(config, tune=True).close()
    assert capsys.readouterr().err == ""
    save_profile(profile_path(), replace(kept, quick=False), profile_key(tiny_q4_0))  # as bench --tune does
    load_engine(config, tune=True).close()
    assert capsys.readouterr().err == ""


@linux
def test_a_busy_machine_is_not_measured_and_nothing_kept(
    tiny_q4_0: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 60.0)
    monkeypatch.setattr(load, "SMALL", 0)
    load_engine(EngineConfig(tiny_q4_0, n_ctx=256), tune=True).close()
    expected = "not tuned: other programs use 60 % of the processors; the next start tries again\n"
    assert capsys.readouterr().err == expected
    assert not profile_path().exists()


def test_the_line_of_a_tuning_says_what_flash_attention_changes() -> None:
    profile = Profile(2, 4, None, flash_attention=True, runtime="llama", quick=True)
    expected = "threads 2, 4 for prompts, flash attention on (it rounds otherwise, so answers may change)"
    assert chosen(profile) == expected
    assert chosen(replace(profile, flash_attention=False)) == "threads 2, 4 for prompts, flash attention off"


@linux
def test_without_a_folder_to_keep_the_result_in_nothing_is_measured(
    tiny_q4_0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load, "SMALL", 0)
    (tmp_path / "file").write_text("")
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file"))
    load_engine(EngineConfig(tiny_q4_0, n_ctx=256), tune=True).close()
    assert capsys.readouterr().err == (
        f"not tuned: {tmp_path}/file/glm-edge/profile.json cannot be written; set HOME, or XDG_CONFIG_HOME on Linux,"
        " to a folder that you can write, or leave it out with --no-tune\n"
    )


@linux
@pytest.mark.parametrize("options", [{"n_threads": 1}, {"runtime": "llama"}, {"huge_pages": False}])
def test_what_the_user_chose_is_not_measured(
    tiny_q4_0: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(load, "SMALL", 0)
    load_engine(EngineConfig(tiny_q4_0, n_ctx=256, **options), tune=True).close()  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
    assert not profile_path().exists()
