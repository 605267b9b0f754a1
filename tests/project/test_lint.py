"""Lint, format and types: part of the tests, so that one command checks everything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", "--no-cache", ".", cwd=ROOT)


def test_ruff_would_format_nothing() -> None:
    run("ruff", "format", "--no-cache", "--check", ".", cwd=ROOT)


def test_mypy_strict_finds_nothing(tmp_path: Path) -> None:
    """Over the packages as they are installed: convert/ becomes glm_edge.convert."""
    package = tmp_path / "glm_edge"
    package.mkdir()
    try:
        for entry in (ROOT / "glm_edge").iterdir():
            (package / entry.name).symlink_to(entry)
        (package / "convert").symlink_to(ROOT / "convert")
    except OSError:
        pytest.skip("this system lets no user make symbolic links")
    run("mypy", "--config-file", str(ROOT / "setup.cfg"), "-p", "glm_edge", cwd=tmp_path)
