"""`glm-edge bundle`: what is in it, the same bytes each time, what an interruption leaves, what is refused."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from glm_edge.cli.bundle import command
from glm_edge.convert.adapter import convert_adapter
from glm_edge.errors import GlmEdgeError, InvalidFileError, StorageError, UsageError
from glm_edge.llama.ik import VERSION
from glm_edge.tools.bundle.bundle import Progress, Task, bundle
from glm_edge.tools.bundle.wheels import locked
from support.bundles import HERE, quietly, write_wheel
from support.checkpoints.small_checkpoint import CONFIG as SMALL
from support.checkpoints.tuned_checkpoint import random_encoder, write_tuned

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bundles are for Linux")

Usage = namedtuple("Usage", ["total", "used", "free"])


def contents(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Hash, mode and time of each file."""
    return {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mode & 0o777,
            int(path.stat().st_mtime),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_everything_is_in_the_sums_and_the_scripts_can_be_run(made: Path) -> None:
    done = subprocess.run(["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"], cwd=made, check=False)
    assert done.returncode == 0
    named = {line.partition("  ")[2] for line in (made / "SHA256SUMS").read_text().splitlines()}
    found = contents(made)
    assert named | {"SHA256SUMS"} == set(found)
    assert {name for name, (_, mode, _) in found.items() if mode == 0o755} == {"install.sh", "uninstall.sh"}
    for script in ("install.sh", "uninstall.sh"):
        subprocess.run(["sh", "-n", made / script], check=True)


def test_the_readmes_are_a_page_each_and_name_this_bundle(made: Path) -> None:
    for name in ("README.md", "README.zh-CN.md"):
        text = (made / name).read_text("utf-8")
        assert len(text.splitlines()) < 60
        assert f"linux-{HERE.machine}" in text
        assert HERE.python in text
        assert "sh install.sh" in text
        assert not re.search(r"@\w+@", text)
        assert next((made / "models").iterdir()).name in text


def test_the_unit_serves_the_model_of_roots_installation(made: Path) -> None:
    model = next((made / "models").iterdir()).name
    text = (made / "glm-edge.service").read_text()
    assert "ExecStart=/opt/glm-edge/env/bin/python3 -m glm_edge serve " in text
    assert f"--model /opt/glm-edge/models/{model}\n" in text


@pytest.mark.case("B10")
def test_the_same_input_gives_the_same_files_and_the_same_archive(task: Task, made: Path, tmp_path: Path) -> None:
    again = replace(task, out=tmp_path / "elsewhere")
    bundle(again, quietly)
    assert contents(again.out) == contents(made)
    archives = [replace(task, out=tmp_path / name) for name in ("a.tar", "b.tar")]
    for one in archives:
        bundle(one, quietly)
    first, second = (one.out.read_bytes() for one in archives)
    assert first == second
    with tarfile.open(archives[0].out) as archive:
        (top,) = {member.name.partition("/")[0] for member in archive}
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert top.startswith("glm-edge-")
    assert contents(tmp_path / "unpacked" / top) == contents(made)


def test_the_time_of_its_files_can_be_chosen(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    bundle(replace(task, out=tmp_path / "out"), quietly)
    assert {time for _, _, time in contents(tmp_path / "out").values()} == {1000000000}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH=yesterday: must be seconds"):
        bundle(replace(task, out=tmp_path / "other"), quietly)


@pytest.mark.case("B6")
def test_it_goes_on_where_it_was_interrupted(task: Task, made: Path, tmp_path: Path) -> None:
    again = replace(task, out=tmp_path / "out")
    part = tmp_path / "out.part"

    @contextmanager
    def interrupted(what: str, unit: str) -> Iterator[Progress]:
        def progress(done: int, total: int) -> None:
            if what == "writing" and done > total // 2:
                raise KeyboardInterrupt

        yield progress

    with pytest.raises(KeyboardInterrupt):
        bundle(again, interrupted)
    assert not again.out.exists()
    whole = {path: path.stat().st_ino for path in part.rglob("*.whl")}
    assert whole
    (part / "wheels" / "strange.whl").write_bytes(b"of a run that wanted something else")
    damaged = next(iter(whole))
    damaged.write_bytes(b"x")
    bundle(again, quietly)
    assert contents(again.out) == contents(made)
    kept = [path for path, inode in whole.items() if (again.out / path.relative_to(part)).stat().st_ino == inode]
    assert set(whole) - set(kept) == {damaged}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.case("B9")
def test_a_bundle_of_ours_gives_way_to_the_next_one(task: Task, small_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bundle(replace(task, out=out), quietly)
    both = replace(task, out=out, models=(small_gguf, *task.models))
    bundle(both, quietly)
    assert {path.name for path in (out / "models").glob("*.gguf")} == {path.name for path in both.models}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    (out / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"has mine\.txt, which is not of the bundle"):
        bundle(both, quietly)
    assert (out / "mine.txt").read_text() == "mine"


@pytest.fixture
def small_gguf(small_checkpoint: Path, tmp_path: Path) -> Path:
    from glm_edge.convert.convert import convert

    return convert(small_checkpoint, tmp_path.parent / f"{tmp_path.name}-small.gguf", type="q8_0").path


def test_a_models_prefixes_come_with_it_and_nothing_else(task: Task, small_gguf: Path, tmp_path: Path) -> None:
    folder = Path(f"{small_gguf}.prefixes")
    folder.mkdir()
    for name in ("one.prefix", "key", "two.tmp"):
        (folder / name).write_bytes(b"x")
    (folder / "link.prefix").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.prefix")
    out = tmp_path / "out"
    bundle(replace(task, out=out, models=(small_gguf,)), quietly)
    assert [path.name for path in (out / "models" / folder.name).iterdir()] == ["one.prefix"]


@pytest.mark.case("B9")
@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_what_is_not_ours_is_refused_and_stays(task: Task, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    one = replace(task, out=out)
    out.write_text("mine")
    with pytest.raises(StorageError, match="is there and is no bundle"):
        bundle(one, quietly)
    assert out.read_text() == "mine"
    out.unlink()
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(StorageError, match="is there and is no bundle"):
        bundle(one, quietly)
    shutil.rmtree(out)
    out.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is a link"):
        bundle(one, quietly)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(StorageError, match="no such folder; make it first"):
        bundle(replace(task, out=tmp_path / "no" / name), quietly)


def test_a_compressed_archive_is_refused_by_its_name(task: Task, tmp_path: Path) -> None:
    for name in ("out.tar.gz", "out.tgz", "out.zip"):
        with pytest.raises(UsageError, match="wheels and models do not compress"):
            bundle(replace(task, out=tmp_path / name), quietly)
    with pytest.raises(UsageError, match="name a folder"):
        bundle(replace(task, out=Path("/")), quietly)


@pytest.mark.case("B3")
def test_too_little_space_is_told_first(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 10**6))
    with pytest.raises(StorageError, match=r"0\.00 GB are free, and the bundle takes 0\.0\d GB"):
        bundle(replace(task, out=tmp_path / "out"), quietly)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wheel", "error", "why"),
    [
        ("llama_cpp_python-0.3.36-py3-none-manylinux_2_28_riscv64.whl", UsageError, "is not for Python"),
        ("numpy-2.2.6-py3-none-any.whl", UsageError, "is no wheel of llama-cpp-python"),
        ("runtime.zip", UsageError, "is no wheel's file name"),
        ("llama_cpp_python-0.3.1-py3-none-any.whl", UsageError, "needs llama-cpp-python.* not 0.3.1"),
        ("llama_cpp_python-0.3.36-py3-none-any.whl", InvalidFileError, "is no wheel, or a damaged one"),
        ("llama_cpp_python-0.3.37-py3-none-any.whl", StorageError, "there is no such file"),
    ],
)
def test_a_runtime_that_does_not_fit_is_refused(
    task: Task, tmp_path: Path, wheel: str, error: type[GlmEdgeError], why: str
) -> None:
    if "0.3.1-" in wheel:
        write_wheel(tmp_path / wheel)
    elif "0.3.37" not in wheel:
        (tmp_path / wheel).write_bytes(b"x")
    with pytest.raises(error, match=why):
        bundle(replace(task, out=tmp_path / "out", runtime=tmp_path / wheel), quietly)
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_none_is_refused(task: Task, tmp_path: Path) -> None:
    for name, error in (("x.gguf", InvalidFileError), ("x.bin", UsageError)):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(error):
            bundle(replace(task, out=tmp_path / "out", models=(tmp_path / name,)), quietly)
    with pytest.raises(UsageError, match="another model has this name already"):
        bundle(replace(task, out=tmp_path / "out", models=task.models * 2), quietly)


def test_ik_llama_cpp_comes_along_where_it_is_asked_for(
    task: Task, made: Path, fetched: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is for x86-64, not for aarch64; leave out --ik"):
        bundle(replace(task, machine="aarch64", ik=True), quietly)
    if HERE.machine != "x86_64":
        return
    assert not list((made / "wheels").glob("ik_llama_cpp*"))
    out = tmp_path / "out"
    bundle(replace(task, out=out, cache=fetched(HERE, ik=True), ik=True), quietly)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-index",
        "--require-hashes",
    ]
    command += ["--find-links", str(out / "wheels"), "-r", str(out / f"requirements-{HERE.python}.txt")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert f" ik-llama-cpp-python-{VERSION} " in done.stdout


def test_the_command_says_what_it_made_and_warns_of_a_runtime_for_one_processor(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache" / "glm-edge" / "wheels"
    cache.mkdir(parents=True)
    for wheel in locked(HERE):
        (cache / wheel.name).symlink_to(task.cache / wheel.name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = CliRunner().invoke(command, [str(tmp_path / "out"), "--runtime", str(task.runtime)], catch_exceptions=False)
    assert done.exit_code == 0
    warning, said = done.output.splitlines()
    assert warning.endswith("was built for one kind of processor; glm-edge runtime builds it for all")
    assert re.fullmatch(
        rf"{tmp_path}/out: \d+ files, 0\.\d+ GB, for linux-{HERE.machine} with glibc 2\.\d+ and Python"
        rf" {HERE.python}; carry it there and run: sh install\.sh",
        said,
    )


def test_ctrl_c_while_it_fetches_is_one_line(tmp_path: Path, runtime: Path) -> None:
    """Fetching from an index that never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        index = f"http://127.0.0.1:{server.getsockname()[1]}/simple"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index, "XDG_CACHE_HOME": str(tmp_path)}
        words = ["bundle", str(tmp_path / "out"), "--runtime", str(runtime)]
        running = subprocess.Popen(
            [sys.executable, "-m", "glm_edge", *words],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with running:
            asking = server.accept()[0]  # pip is there
            os.killpg(running.pid, signal.SIGINT)
            said = running.communicate(timeout=60)[1]
            asking.close()
    assert running.returncode == 130
    assert said == "error: interrupted\n"
    assert not (tmp_path / "out").exists()


def test_adapters_come_along_and_must_fit(task: Task, small_checkpoint: Path, small_gguf: Path, tmp_path: Path) -> None:
    source = write_tuned(tmp_path / "tuned", random_encoder(SMALL, 4))
    adapter = convert_adapter(source, small_checkpoint, tmp_path / "a.gguf").path
    out = tmp_path / "out"
    bundle(replace(task, out=out, models=(small_gguf,), adapters=(adapter,)), quietly)
    assert (out / "models" / "adapters" / "a.gguf").read_bytes() == adapter.read_bytes()
    assert "models/adapters/a.gguf" in (out / "SHA256SUMS").read_text("utf-8")
    with pytest.raises(GlmEdgeError, match="was made for another model"):
        bundle(replace(task, out=tmp_path / "other", adapters=(adapter,)), quietly)
