"""What install.sh refuses: one line that says why, and nothing is there afterwards that was not before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.machines.alone import as_root, run_alone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bundles are for Linux")

PREFIX = ".local/lib/glm-edge"


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line of a refusal."""
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def install(bundle: Path, home: Path, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return run_alone(["sh", bundle / "install.sh", *arguments], home, **more)


def changed(made: Path, folder: Path, name: str, content: bytes | None) -> Path:
    """A copy of the bundle with one file damaged or missing."""
    copy = folder / "damaged"
    shutil.copytree(made, copy, copy_function=os.link)
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    return copy


@pytest.mark.case("B1")
@pytest.mark.parametrize("content", [None, b"", b"x"], ids=["missing", "empty", "other"])
@pytest.mark.parametrize("name", ["bundle.json", "uninstall.sh", "model", "SHA256SUMS"])
def test_a_damaged_file_is_named(made: Path, tmp_path: Path, name: str, content: bytes | None) -> None:
    if name == "model":
        name = f"models/{next((made / 'models').iterdir()).name}"
    bundle, home = changed(made, tmp_path, name, content), tmp_path / "home"
    assert refused(install(bundle, home), 4).startswith(f"{bundle / name}: is ")
    assert list(home.iterdir()) == []


@pytest.mark.case("B2")
@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("machine", "riscv64", f"this bundle is for linux-riscv64, and this machine is {os.uname().machine}"),
        ("glibc", "2.99", "and the bundle needs 2.99"),
    ],
)
def test_another_machine_is_refused(
    made: Path, altered: Callable[[str, bytes], Path], tmp_path: Path, field: str, value: str, why: str
) -> None:
    about = json.loads((made / "bundle.json").read_text()) | {field: value}
    home = tmp_path / "home"
    assert why in refused(install(altered("bundle.json", json.dumps(about).encode()), home), 5)
    assert list(home.iterdir()) == []


def programs(folder: Path, python: str) -> str:
    """A PATH with the few programs that install.sh calls, and a python3 that says this version, if any."""
    folder.mkdir()
    for name in ("dirname", "sha256sum"):
        (folder / name).symlink_to(str(shutil.which(name)))
    if python:
        (folder / "python3").write_text(f"#!{shutil.which('sh')}\necho {python}\n")
        (folder / "python3").chmod(0o755)
    return str(folder)


@pytest.mark.case("B2")
@pytest.mark.parametrize(("python", "here"), [("3.9", "3.9 ({}/python3)"), ("", "none")], ids=["old", "none"])
def test_the_wrong_python_is_named(made: Path, tmp_path: Path, python: str, here: str) -> None:
    home, path = tmp_path / "home", programs(tmp_path / "bin", python)
    shell = str(shutil.which("sh"))
    done = run_alone([shell, made / "install.sh"], home, PATH=path, PYTHON="")
    wanted = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert refused(done, 5) == (
        f"this bundle is for Python {wanted}; here is {here.format(path)}; install one, or make a bundle for it"
    )
    assert list(home.iterdir()) == []


def test_a_named_python_that_is_none_is_not_replaced_by_another(made: Path, tmp_path: Path) -> None:
    assert "here is none" in refused(install(made, tmp_path / "home", PYTHON="/no/python3"), 5)


@pytest.mark.case("B3")
def test_too_little_space_is_told_before_anything_is_written(made: Path, tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=20m none . && cd "$PWD" && sh "$1/install.sh" here; code=$?; ls; exit $code'
    done = run_alone(["sh", "-c", script, "sh", made], tmp_path / "small", before=as_root())
    assert " GB are free, and GLM Edge takes 0." in refused(done, 6)
    assert "here" not in done.stdout.splitlines()


@pytest.mark.case("B4")
def test_a_folder_of_somebody_else_is_left_alone(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / PREFIX).mkdir(parents=True)
    (home / PREFIX / "mine").write_text("mine")
    assert "has files that install.sh did not put there" in refused(install(made, home), 6)
    assert "is not a folder" in refused(install(made, home, home / PREFIX / "mine"), 6)
    assert [path.name for path in (home / PREFIX).iterdir()] == ["mine"]
    assert not (home / ".local/bin").exists()


@pytest.mark.case("B4")
@pytest.mark.parametrize("place", [PREFIX, f"{PREFIX}/models"])
def test_a_link_in_its_place_is_not_followed(made: Path, tmp_path: Path, place: str) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / place).parent.mkdir(parents=True)
    (home / place).symlink_to(elsewhere)
    assert refused(install(made, home), 6).startswith(f"{home / place}: is a link")
    assert list(elsewhere.iterdir()) == []
    if place == PREFIX:
        done = run_alone(["sh", made / "uninstall.sh"], home)
        assert refused(done, 6) == f"{home / PREFIX}: is a link; name the folder it leads to"


@pytest.mark.case("B4")
@pytest.mark.parametrize("name", [".local/bin/glm-edge", f"{PREFIX}/models/{{}}"], ids=["program", "model"])
def test_a_file_of_somebody_else_is_not_replaced(made: Path, tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    path = home / name.format(next((made / "models").iterdir()).name)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert refused(install(made, home), 6) == f"{path}: is there and not from install.sh; move it away"
    assert path.read_text() == "mine"
    assert not (home / PREFIX / "installed.txt").exists()


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
@pytest.mark.parametrize("arguments", [["--help"], ["a", "b"]])
def test_wrong_words_are_answered_with_the_usage(made: Path, tmp_path: Path, script: str, arguments: list[str]) -> None:
    done = run_alone(["sh", made / script, *arguments], tmp_path / "home")
    assert refused(done, 2) == f"usage: sh {script} [PREFIX]"


def test_two_at_once_do_not_mix(made: Path, tmp_path: Path) -> None:
    """The lock of the first one is held by this process."""
    from glm_edge.system.file_lock import Lock

    home = tmp_path / "home"
    (home / PREFIX).mkdir(parents=True)
    lock = Lock(home / PREFIX / ".glm-edge.lock", home / PREFIX)
    try:
        assert f"locked by pid {os.getpid()}" in refused(install(made, home), 6)
    finally:
        lock.release()
    assert not (home / PREFIX / "installed.txt").exists()
