"""What the tests of pull share: a repository of five shards, a hub that serves it, and the file that must come out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_edge.convert.convert import convert
from support.checkpoints.fake_hub import Hub, files_of, serving
from support.checkpoints.wide_checkpoint import write_wide


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository; a test file may have others."""
    return write_wide(tmp_path_factory.mktemp("wide") / "chatglm2-small")


@pytest.fixture(scope="module")
def expected(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What `convert` makes of them."""
    return convert(checkpoint, tmp_path_factory.mktemp("expected") / "x.gguf").path.read_bytes()


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    with serving(Hub(files_of(checkpoint))) as hub:
        yield hub


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The name of the file to make, in a folder where nothing else is."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "x.gguf"
