"""Fixtures that several test files share: the reference data and what is made from it.

The reference data is the official model's own output and lies outside the project (`../shared/reference` seen from the
project's root, or where GLM_EDGE_REFERENCE points). Where it is absent, the tests that need it skip and say so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from glm_edge.convert.convert import convert
from support.checkpoints.small_checkpoint import write_checkpoint
from support.paths import PROJECT

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run away from the checkout: programs that the tests start import what is installed, and write nothing here."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference data; skips the test where it is absent."""
    folder = Path(os.environ.get("GLM_EDGE_REFERENCE") or PROJECT.parent / "shared" / "reference")
    if not (folder / "tokens.jsonl").is_file():
        pytest.skip(f"no reference data at {folder}; set GLM_EDGE_REFERENCE to its folder")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny reference checkpoint (hidden 64, 2 layers, the real vocabulary) as a complete folder."""
    folder = tmp_path_factory.mktemp("tiny") / "chatglm2-tiny"
    folder.mkdir()
    for source in [*(reference / "tiny").iterdir(), reference / "chatglm2-6b" / "tokenizer.model"]:
        shutil.copyfile(source, folder / source.name)  # no links: a checkpoint's files lie in its folder
    return folder


@pytest.fixture(scope="session")
def tiny_f32(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as a GGUF file of f32 weights."""
    return convert(tiny_checkpoint, tmp_path_factory.mktemp("gguf") / "tiny-f32.gguf", type="f32").path


@pytest.fixture(scope="session")
def tiny_f16(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as a GGUF file of f16 weights."""
    return convert(tiny_checkpoint, tmp_path_factory.mktemp("gguf") / "tiny-f16.gguf", type="f16").path


@pytest.fixture(scope="session")
def tiny_int4_checkpoint(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny reference checkpoint with its layers in 4 bits, as a complete folder."""
    folder = tmp_path_factory.mktemp("tiny") / "chatglm2-tiny-int4"
    folder.mkdir()
    for source in [*(reference / "tiny-int4").iterdir(), reference / "chatglm2-6b" / "tokenizer.model"]:
        shutil.copyfile(source, folder / source.name)
    return folder


@pytest.fixture(scope="session")
def tiny_int4_f32(tiny_int4_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint of 4 bits as a GGUF file of f32 weights."""
    return convert(tiny_int4_checkpoint, tmp_path_factory.mktemp("gguf") / "tiny-int4-f32.gguf", type="f32").path


@pytest.fixture(scope="session")
def tiny_int4_f16(tiny_int4_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint of 4 bits as a GGUF file of f16 weights."""
    return convert(tiny_int4_checkpoint, tmp_path_factory.mktemp("gguf") / "tiny-int4-f16.gguf", type="f16").path


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
