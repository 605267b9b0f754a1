"""`glm-edge doctor` on this machine: what it prints, its exit codes, and runtimes that are missing or die."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from glm_edge.cli.doctor import command
from glm_edge.convert.adapter import convert_adapter
from glm_edge.convert.convert import convert
from glm_edge.convert.recipes import RECIPES
from glm_edge.tools.bench.tune import REQUEST
from glm_edge.tools.doctor.examine import examine
from glm_edge.tools.doctor.host import Host
from glm_edge.tools.doctor.model import adapter as look_at_adapter
from glm_edge.tools.doctor.probe import Probed, Rate, probe
from glm_edge.tools.doctor.report import as_text
from glm_edge.tools.doctor.runtime import runtime
from glm_edge.tools.doctor.speeds import CHATGLM2_6B, OFFERED, Work, fits, recommended, work_of_recipe
from support.checkpoints.full_size_bytes import FULL, full_size
from support.checkpoints.small_checkpoint import CONFIG
from support.checkpoints.tuned_checkpoint import random_encoder, write_tuned

MISSING = "raise ModuleNotFoundError('No module', name='llama_cpp')"
DYING = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.fixture(scope="module")
def model(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(small_checkpoint, tmp_path_factory.mktemp("doctor") / "small.gguf", type="q8_0").path


def with_runtime(code: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let `import llama_cpp` run this instead, in the process that the doctor starts."""
    (folder / "llama_cpp").mkdir()
    (folder / "llama_cpp" / "__init__.py").write_text(code)
    patch.syspath_prepend(str(folder))


def test_a_sound_model_will_chat(model: Path) -> None:
    done = call("--model", str(model), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert set(found) == {"ok", "next", "findings", "types"}
    assert found["ok"]
    assert found["next"] == f"next: glm-edge chat --model {model}"
    for finding in found["findings"]:
        assert set(finding) == {"topic", "level", "text", "todo", "facts"}
        assert finding["level"] in {"ok", "note"}
        assert (finding["level"] == "note") == bool(finding["todo"]), finding
    assert [entry["type"] for entry in found["types"]] == list(OFFERED)


def test_a_runtime_that_takes_too_long_is_no_problem() -> None:
    slow = probe([("q4_0", True)], threads=1, size=64 << 20, patience=0)
    assert slow == Probed()
    assert [finding.level for finding in runtime(slow, fast=True)] == ["note"]


def test_the_fastest_type_of_four_bits_is_recommended_where_all_were_measured() -> None:
    rates = {"edge": (2.0, 20.0), "q4_0": (3.0, 10.0), "q4_k_m": (2.0, 19.0), "q2_k": (9.0, 90.0)}
    types = [
        replace(fit, decode=rates[fit.name][0], prefill=rates[fit.name][1])
        for fit in fits(16 << 30)
        if fit.name in rates
    ]
    best = recommended(types, *REQUEST)
    assert best is not None
    assert best.name == "q4_0"  # 128 / 10 + 64 / 3 seconds
    assert recommended([replace(fit, decode=None) if fit.name == "edge" else fit for fit in types], *REQUEST) is None
    assert recommended(fits(1 << 30), *REQUEST) is None


@pytest.mark.parametrize(("kind", "amx", "said"), [("CPU_REPACK", True, 1), ("AMX", True, 0), ("CPU_REPACK", False, 0)])
def test_amx_that_is_not_used_is_said(kind: str, amx: bool, said: int) -> None:
    probed = Probed(
        versions={"llama_cpp_python": "1"}, kinds={"q4_0": kind}, rates={("q4_0", True): Rate(kind, 1e-9, 1e-10)}
    )
    notes = [finding for finding in runtime(probed, fast=True, amx=amx) if finding.level == "note"]
    assert [(finding.topic, "glm-edge runtime" in finding.todo) for finding in notes] == [("AMX", True)] * said


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"), (None, "no such file")],
    ids=["empty", "pointer", "missing"],
)
def test_a_model_that_is_none_will_not_chat(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    done = call("--model", str(path))
    assert done.exit_code == 1
    assert f"PROBLEM  {path}" in done.output
    assert said in done.output.lower()
    assert done.output.splitlines()[-1].startswith("next: model: ")


@pytest.mark.parametrize(
    ("code", "text", "todo"),
    [
        (MISSING, "llama-cpp-python is not installed", "pip install llama-cpp-python"),
        pytest.param(
            DYING,
            "cannot be loaded: killed by SIGILL",
            "built for a newer processor",
            marks=pytest.mark.skipif(os.name != "posix", reason="sends itself a POSIX signal"),
        ),
    ],
    ids=["missing", "dying"],
)
def test_without_a_runtime_nothing_will_chat(
    code: str, text: str, todo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_runtime(code, tmp_path, monkeypatch)
    found = examine(Host(), None, {"data": tmp_path}, 8000, partial(probe, patience=120))
    assert not found.ok
    said = as_text(found)
    assert f"PROBLEM  {text}" in said
    assert todo in said.splitlines()[-1]
    assert "Traceback" not in said


def test_products_are_measured() -> None:
    found = probe([("q4_0", True), ("q4_0", False), ("q6_k", False)], threads=1, size=64 << 20, patience=120)
    assert not found.error
    assert found.versions["llama_cpp_python"]
    assert found.kinds.keys() == {"q4_0", "q6_k"}
    rate = found.rates["q4_0", True]
    # between a billion weights in ten seconds and a thousand times as many a second
    assert 1e-12 < rate.decode < 1e-8
    assert 1e-14 < rate.prefill < 1e-8


@pytest.mark.parametrize("name", OFFERED)
def test_the_work_of_a_recipe_is_that_of_its_tensors(name: str) -> None:
    work: Work = work_of_recipe(RECIPES[name])
    columns, rows, _ = FULL["embedding"]
    _, used = full_size(RECIPES[name])
    matrices = sum(used.values()) - sum(c * r * n for c, r, n in (FULL["norm"], FULL["bias"])) - columns * rows
    assert sum(work.every.values()) + sum(work.last.values()) == matrices
    # the output matrix, and the last layer's feed-forward matrices
    sizes = CHATGLM2_6B
    assert sum(work.last.values()) == sizes.hidden * (sizes.vocab + 3 * sizes.ffn)
    assert set(work.every) | set(work.last) <= set(used)


def test_more_memory_never_fits_less() -> None:
    before = 0
    for gib in (1, 2, 4, 8, 16, 32):
        good = sum(fit.plan is not None and not fit.plan.slow for fit in fits(gib << 30))
        assert good >= before
        before = good
    assert before == len(OFFERED)


def test_an_adapter_is_looked_at(model: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    source = write_tuned(tmp_path / "tuned", random_encoder(CONFIG, 4))
    adapter = convert_adapter(source, small_checkpoint, tmp_path / "a.gguf").path
    done = call("--model", str(model), "--adapter", str(adapter))
    assert done.exit_code == 0, done.output
    assert "a.gguf, 0.0 MB; whole, fits small.gguf; takes 4 tokens of the context" in " ".join(done.output.split())
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"x")
    assert look_at_adapter(adapter, model).level == "problem"
