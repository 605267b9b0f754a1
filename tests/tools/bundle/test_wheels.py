"""The wheels of a bundle: the lock, what each Python and processor needs of it, the glibc they need; our own wheel."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename

from glm_edge.errors import StorageError, UsageError
from glm_edge.tools.bundle.bundle import LEAST_GLIBC, glibc_versions
from glm_edge.tools.bundle.own_wheel import own_wheel
from glm_edge.tools.bundle.wheels import (
    IK,
    LOCK,
    PIP,
    PYTHONS,
    LockedWheel,
    Target,
    fetch,
    glibc_of,
    locked,
    named,
    needed,
)
from glm_edge.tools.runtime.build import locked as runtime_version
from glm_edge.tools.runtime.compiler import MACHINES
from support.bundles import HERE, write_wheel
from support.paths import PROJECT

TARGETS = [Target(machine, python) for machine in MACHINES for python in PYTHONS]
WHEELS = sorted({wheel for target in TARGETS for wheel in locked(target, ik=True)}, key=lambda wheel: wheel.name)

# Libraries that ask for a newer glibc than we promise, and what they ask for.
NEWER = {"llguidance/_lib.abi3.so": (2, 30)}


def runtime_for(target: Target, folder: Path) -> Path:
    """A wheel that needs what llama-cpp-python needs, by the file that `glm-edge runtime` makes."""
    name = f"llama_cpp_python-{runtime_version('llama-cpp-python')}-py3-none-manylinux_2_28_{target.machine}.whl"
    needs = ("typing-extensions>=4.5.0", "numpy>=1.20.0", "diskcache>=5.6.1", "jinja2>=2.11.3", "uvicorn; extra == 's'")
    return write_wheel(folder / name, *needs)


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, content = own_wheel()
    path = tmp_path_factory.mktemp("own") / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.python}-{target.machine}")
def test_the_locked_wheels_are_all_that_is_needed(
    target: Target, fetched: Callable[[Target], Path], ours: Path, tmp_path: Path
) -> None:
    folder = fetched(target)
    wheels = [folder / wheel.name for wheel in locked(target) if named(wheel.name)[0] != PIP]
    runtime = runtime_for(target, tmp_path)
    chosen = needed([*wheels, ours, runtime], "glm-edge", target)
    assert {ours, runtime} <= set(chosen)
    only_old = {"exceptiongroup", "tomli"}
    left = {named(path.name)[0] for path in wheels} - {named(path.name)[0] for path in chosen}
    assert left == (set() if target.python == "3.10" else only_old)


@pytest.mark.parametrize("machine", MACHINES)
def test_no_library_asks_for_a_newer_glibc_than_we_promise(machine: str, fetched: Callable[[Target], Path]) -> None:
    found: dict[str, tuple[int, int]] = {}
    for target in (target for target in TARGETS if target.machine == machine):
        folder = fetched(target)
        for wheel in locked(target):
            found |= {name: version for version, name in glibc_versions(folder / wheel.name)}
    assert len(found) > 20
    assert {name: version for name, version in found.items() if version > LEAST_GLIBC} == NEWER


def test_versions_of_symbols_are_those_that_readelf_finds(runtime: Path, tmp_path: Path) -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("no readelf: apt-get install binutils")
    with zipfile.ZipFile(runtime) as archive:
        for version, name in glibc_versions(runtime):
            library = archive.extract(name, tmp_path)
            done = subprocess.run([readelf, "--version-info", library], capture_output=True, text=True, check=True)
            minors = [int(minor) for minor in re.findall(r"Name: GLIBC_2\.(\d+)", done.stdout)]
            assert version == (2, max(minors, default=0)), name


def test_the_lock_has_one_version_of_a_package_and_one_wheel_for_a_target() -> None:
    assert len({parse_wheel_filename(wheel.name)[:2] for wheel in WHEELS}) == len({named(w.name)[0] for w in WHEELS})
    for target in TARGETS:
        names = Counter(named(wheel.name)[0] for wheel in locked(target, ik=True))
        assert set(names.values()) == {1}
        assert (IK in names) == (target.machine == "x86_64")
        assert "llama-cpp-python" not in names
        assert PIP in names
    lines = [line for line in LOCK.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert len(lines) == len(WHEELS)
    assert all(re.fullmatch(r"[0-9a-f]{64} \d+ \S+\.whl", line) for line in lines)


@pytest.mark.parametrize(
    ("wheel", "python", "machine", "fits"),
    [
        ("a-1-py3-none-any.whl", "3.10", "aarch64", True),
        ("a-1-py2.py3-none-any.whl", "3.13", "x86_64", True),
        ("a-1-cp311-cp311-manylinux_2_28_aarch64.whl", "3.11", "aarch64", True),
        ("a-1-cp311-cp311-manylinux_2_28_aarch64.whl", "3.12", "aarch64", False),
        ("a-1-cp311-cp311-manylinux_2_28_aarch64.whl", "3.11", "x86_64", False),
        ("a-1-cp39-abi3-manylinux2014_x86_64.whl", "3.13", "x86_64", True),
        ("a-1-cp312-abi3-manylinux2014_x86_64.whl", "3.11", "x86_64", False),
        ("a-1-cp313-cp313t-manylinux_2_28_x86_64.whl", "3.13", "x86_64", False),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", "3.11", "x86_64", False),
        ("a-1-cp311-cp311-manylinux_2_39_x86_64.whl", "3.11", "x86_64", False),
        ("a-1-py3-none-linux_x86_64.whl", "3.11", "x86_64", True),
        ("a-1-cp311-cp311-win_amd64.whl", "3.11", "x86_64", False),
    ],
)
def test_a_wheel_fits_by_its_name(wheel: str, python: str, machine: str, *, fits: bool) -> None:
    assert Target(machine, python).fits(wheel) is fits


def test_the_glibc_that_pip_asks_for_is_the_oldest_that_a_name_has() -> None:
    assert glibc_of("a-1-cp311-cp311-manylinux1_x86_64.manylinux_2_28_x86_64.manylinux_2_5_x86_64.whl") == (2, 5)
    assert glibc_of("a-1-cp39-abi3-manylinux_2_31_aarch64.whl") == (2, 31)
    assert glibc_of("a-1-py3-none-any.whl") == (2, 0)


def test_what_is_missing_or_of_a_wrong_version_is_told(tmp_path: Path) -> None:
    first = write_wheel(tmp_path / "a-1-py3-none-any.whl", "b >=2", "c; python_version < '3.11'", "d; extra == 'x'")
    second = write_wheel(tmp_path / "b-1-py3-none-any.whl")
    with pytest.raises(UsageError, match=r"a-1-py3-none-any\.whl needs b>=2 on Python 3\.12, not 1"):
        needed([first, second], "a", Target("x86_64", "3.12"))
    second = write_wheel(tmp_path / "b-2-py3-none-any.whl", "e[z]")
    third = write_wheel(tmp_path / "e-1-py3-none-any.whl", "f; extra == 'z'")
    fourth = write_wheel(tmp_path / "f-1-py3-none-any.whl")
    wheels = [first, second, third, fourth]
    assert needed(wheels, "a", Target("x86_64", "3.12")) == wheels
    with pytest.raises(UsageError, match=r"a-1-.* needs c.* on Python 3\.10, and there is no wheel of it"):
        needed(wheels, "a", Target("x86_64", "3.10"))
    with pytest.raises(UsageError, match="needs f"):
        needed(wheels[:3], "a", Target("x86_64", "3.12"))


def test_a_wheel_that_cannot_be_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    cache = tmp_path / "cache"
    cache.mkdir()
    good = write_wheel(tmp_path / "b-1-py3-none-any.whl")
    right = LockedWheel(good.name, hashlib.sha256(good.read_bytes()).hexdigest(), good.stat().st_size)
    other = LockedWheel("c-1-py3-none-any.whl", "0" * 64, 5)
    with pytest.raises(StorageError, match=r"c-1-py3-none-any.whl: cannot be fetched: .*; the same command goes on"):
        fetch([other], HERE, cache, lambda done, total: None)
    fetch([right], HERE, cache, lambda done, total: None)
    assert [path.name for path in cache.iterdir()] == [good.name]
    with pytest.raises(StorageError, match=r"b-1-py3-none-any\.whl: cannot be fetched"):
        fetch([LockedWheel(good.name, "0" * 64, 5)], HERE, cache, lambda done, total: None)


def test_our_own_wheel_is_the_same_each_time_and_what_pip_would_build(ours: Path, tmp_path: Path) -> None:
    assert own_wheel() == (ours.name, ours.read_bytes())
    with zipfile.ZipFile(ours) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
        times = {entry.date_time for entry in archive.infolist()}
    assert times == {(2026, 1, 1, 0, 0, 0)}
    about = next(name for name in found if name.endswith("/RECORD")).removesuffix("/RECORD")
    lines = list(csv.reader(io.StringIO(found[f"{about}/RECORD"].decode())))
    assert {name for name, _, _ in lines} == set(found)
    for name, digest, size in lines[:-1]:
        expected = base64.urlsafe_b64encode(hashlib.sha256(found[name]).digest()).decode().rstrip("=")
        assert (digest, int(size)) == (f"sha256={expected}", len(found[name]))
    built = built_by_pip(tmp_path)
    code = {name: data for name, data in built.items() if not name.startswith(about)}
    assert {name: data for name, data in found.items() if not name.startswith(about)} == code
    assert found[f"{about}/entry_points.txt"] == built[f"{about}/entry_points.txt"]


def built_by_pip(folder: Path) -> dict[str, bytes]:
    """What is in the wheel that pip builds of the project's source; skips the test where it cannot."""
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "tests", "build", "*.egg-info", "__pycache__", "*.gguf")
    shutil.copytree(PROJECT, source, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot build here: {done.stderr.strip().splitlines()[-1]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
