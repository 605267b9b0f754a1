"""The package as an installer leaves it: nobody may write to it, and it is used from anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from glm_edge.convert.convert import convert
from support.checkpoints.small_checkpoint import write_checkpoint
from support.server.live_server import post
from support.server.server_process import GREEDY, run


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A folder with the package in it and nothing else, read-only."""
    folder = tmp_path / "site"
    for name in ("glm_edge", "glm_edge.convert", "glm_edge.demo"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations
        source, target = Path(spec.submodule_search_locations[0]), folder.joinpath(*name.split("."))
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    everything = [folder, *folder.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in everything:
        path.chmod(0o755)  # so that it can be removed


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Files and folders by name; size and time."""
    return {str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def environment(site: Path, tmp_path: Path) -> dict[str, str]:
    """Without byte code, which Python itself would try to write: whatever appears is ours."""
    return {
        "PYTHONPATH": str(site),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


@pytest.mark.case("C7")
def test_a_read_only_package_converts_and_verifies_the_same_from_any_folder(site: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    expected = convert(checkpoint, tmp_path / "expected.gguf", type="q8_0").path.read_bytes()
    before = contents(site)
    cwd = tmp_path / "some where 中文"
    cwd.mkdir()
    for arguments in (
        ["-c", f"import glm_edge; assert glm_edge.__file__.startswith({str(site)!r}), glm_edge.__file__"],
        ["-m", "glm_edge", "convert", str(checkpoint), "--type", "q8_0", "--out", "made.gguf"],
        ["-m", "glm_edge", "verify", "made.gguf"],
    ):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, **environment(site, tmp_path)},
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (cwd / "made.gguf").read_bytes() == expected
    assert contents(site) == before


@pytest.mark.case("C7")
@pytest.mark.skipif(os.name != "posix", reason="ends the server with a POSIX signal")
def test_a_read_only_package_makes_its_demo_model_elsewhere_and_serves_it(site: Path, tmp_path: Path) -> None:
    before = contents(site)
    command = ("-m", "glm_edge", "serve", "--port", "0", "--threads", "1")
    with run(*command, **environment(site, tmp_path)) as server:
        server.said("serving glm-edge-demo")
        assert server.ask(post(GREEDY))[0] == 200
    assert contents(site) == before
    assert list((tmp_path / "data").rglob("*.gguf"))
