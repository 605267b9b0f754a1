"""Fixtures of the bundle's tests: fetched wheels, a runtime, and a real bundle of the demo model.

Wheels come from pip's index, or are in the folder that GLM_EDGE_WHEELS names. Where neither has them, tests skip.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest

from glm_edge.cli.demo import demo_model
from glm_edge.errors import StorageError
from glm_edge.tools.bundle.bundle import Task, bundle
from glm_edge.tools.bundle.wheels import Target, fetch, locked
from support.bundles import HERE, quietly


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that gives the folder with all locked wheels of a target, with ik_llama.cpp's where that is asked for.
    It skips the test where it cannot."""
    named = os.environ.get("GLM_EDGE_WHEELS")
    folder = Path(named) if named else tmp_path_factory.mktemp("wheels")

    def fetch_for(target: Target, *, ik: bool = False) -> Path:
        try:
            fetch(locked(target, ik=ik), target, folder, lambda done, total: None)
        except StorageError as error:
            pytest.skip(f"no package index, and no wheels in GLM_EDGE_WHEELS: {error}")
        return folder

    return fetch_for


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the llama-cpp-python that is installed here: a stand-in for ten minutes of `glm-edge runtime`."""
    installed = distribution("llama-cpp-python")
    name = f"llama_cpp_python-{installed.version}"
    wheel = tmp_path_factory.mktemp("runtime") / f"{name}-py3-none-linux_{platform.machine()}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in installed.files or ():
            if file.parts[0] in ("llama_cpp", f"{name}.dist-info") and file.suffix != ".pyc":
                archive.write(str(file.locate()), file.as_posix())
    return wheel


@pytest.fixture(scope="session")
def task(fetched: Callable[[Target], Path], runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """What the tests' bundle is made of."""
    if sys.platform != "linux":
        pytest.skip("bundles are for Linux, and there is no wheel of this system's in the lock")
    out = tmp_path_factory.mktemp("made") / "bundle"
    return Task(out, (demo_model(),), HERE.machine, (HERE.python,), runtime, fetched(HERE))


@pytest.fixture(scope="session")
def made(task: Task) -> Path:
    """A bundle of the demo model for this machine and Python; only read it."""
    bundle(task, quietly)
    return task.out


@pytest.fixture
def altered(made: Path, tmp_path: Path) -> Callable[[str, bytes], Path]:
    """A function that gives a copy of the bundle in which one file is another, and the sums are right again."""

    def alter(name: str, content: bytes) -> Path:
        copy = tmp_path / "altered"
        shutil.copytree(made, copy, copy_function=os.link)
        (copy / name).unlink()
        (copy / name).write_bytes(content)
        lines = (made / "SHA256SUMS").read_text("utf-8").splitlines()
        digest = hashlib.sha256(content).hexdigest()
        lines = [f"{digest}  {name}" if line.endswith(f"  {name}") else line for line in lines]
        (copy / "SHA256SUMS").unlink()
        (copy / "SHA256SUMS").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return copy

    return alter
