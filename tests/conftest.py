"""Fixtures that several test files share: checkpoints of our own and their GGUF files, and the official reference data.

The reference data is the official model's own output and lies outside the project (`../shared/reference` seen from the
project's root, or where GLM_EDGE_REFERENCE points). Only engine/test_official.py uses it; without it, its tests skip.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from glm_edge.convert.convert import convert
from glm_edge.errors import UnsupportedModelError
from glm_edge.llama.ik import library_path
from glm_edge.system.device import processors
from glm_edge.types import RuntimeName
from support.checkpoints.large_vocabulary import write_large_checkpoint
from support.checkpoints.small_checkpoint import write_checkpoint
from support.paths import PROJECT

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


def pytest_configure(config: pytest.Config) -> None:
    """Coverage is reported, and has a floor, where the whole suite runs: a part of it says nothing about the whole."""
    coverage = config.pluginmanager.getplugin("_cov")
    if coverage is not None and not _is_whole(config):
        coverage.options.cov_report, coverage.options.cov_fail_under = {}, None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite runs in several processes, one more than there are processors, because many tests wait.

    A part of it runs in this one, where a debugger works.
    """
    return min(4, processors().every + 1) if _is_whole(config) else 0


def _is_whole(config: pytest.Config) -> bool:
    chosen = ("keyword", "markexpr", "deselect", "lf", "collectonly", "maxfail")
    return config.args_source == pytest.Config.ArgsSource.TESTPATHS and not any(
        config.getoption(name, default=None) for name in chosen
    )


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """Let programs that the tests start hear SIGINT: a shell has it ignored in what it starts in the background."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run away from the checkout: programs that the tests start import what is installed, and write nothing here."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session", autouse=True)
def own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty config folder and no model in the environment: no test meets this user's settings, or changes them."""
    folder = tmp_path_factory.mktemp("settings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        for name in [name for name in os.environ if name.startswith("GLM_EDGE_") and name.endswith("_MODEL")]:
            patch.delenv(name)
        yield folder


@pytest.fixture(autouse=True)
def no_settings_of_the_test_before(own_settings: Path) -> Iterator[None]:
    """A test that converts makes its model the default; the next one must not run that."""
    yield
    for entry in own_settings.iterdir():
        shutil.rmtree(entry)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference data; skips the test where it is absent."""
    folder = Path(os.environ.get("GLM_EDGE_REFERENCE") or PROJECT.parent / "shared" / "reference")
    if not (folder / "tokens.jsonl").is_file():
        pytest.skip(f"no reference data at {folder}; set GLM_EDGE_REFERENCE to its folder")
    return folder


@pytest.fixture(scope="session", params=["llama", "ik"])
def runtime_name(request: pytest.FixtureRequest) -> RuntimeName:
    """Each runtime in turn; skips ik_llama.cpp where it cannot be used."""
    name: RuntimeName = request.param
    if name == "ik":
        try:
            library_path()
        except UnsupportedModelError as error:
            pytest.skip(str(error))
    return name


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of our own with the real vocabulary's size (hidden 64, 2 layers, 65,024 tokens); only read it."""
    return write_large_checkpoint(tmp_path_factory.mktemp("tiny") / "chatglm2-tiny")


@pytest.fixture(scope="session")
def tiny_f32(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as a GGUF file of f32 weights."""
    return convert(tiny_checkpoint, tmp_path_factory.mktemp("gguf") / "tiny-f32.gguf", type="f32").path


@pytest.fixture(scope="session")
def tiny_f16(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as a GGUF file of f16 weights."""
    return convert(tiny_checkpoint, tmp_path_factory.mktemp("gguf") / "tiny-f16.gguf", type="f16").path


@pytest.fixture(scope="session")
def tiny_q4_0(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as a GGUF file of type q4_0."""
    return convert(tiny_checkpoint, tmp_path_factory.mktemp("gguf") / "tiny-q4_0.gguf", type="q4_0").path


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of our own (hidden 256, ffn 672, 2 layers, 512 tokens), the same on every machine; only read it."""
    return write_checkpoint(tmp_path_factory.mktemp("small") / "chatglm2-small")


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A headless Chromium; skips the test where there is none."""
    from support.server.browser import chromium

    with chromium(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome
