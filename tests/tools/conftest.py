"""What tests of calibration share: a text, and a place for the output."""

from __future__ import annotations

from pathlib import Path

import pytest

SENTENCES = "".join(f"[Round 1]\n\n问：{n}. 你好\n\n答：philosophy and 哲学 {7 * n} " for n in range(20))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough of it for one chunk."""
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text(SENTENCES, "utf-8")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """In a folder where nothing else is."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "x.gguf"
