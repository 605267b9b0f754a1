"""The demo model as a file, whose vocabulary of 2,560 tokens these tests sample from."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_edge.convert.convert import convert
from support.paths import PROJECT


@pytest.fixture(scope="package")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(PROJECT / "models" / "demo", tmp_path_factory.mktemp("demo") / "demo.gguf", type="f16").path
