"""The command `glm-edge pull` as a user runs it: mirrors, tokens, Ctrl-C, no network, no room on the disk."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glm_edge.cli import glm_edge, run
from glm_edge.convert.pull.pull import pull
from glm_edge.errors import StorageError
from support.checkpoints.fake_hub import REPO, Hub
from support.checkpoints.wide_checkpoint import shard

COMMAND = [sys.executable, "-c", "from glm_edge.cli import main; main()"]


def start(hub: Hub, out: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "pull", REPO, "--out", str(out), *arguments],
        env=os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(out.parent.parent / "home")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = child.communicate(timeout=60)
    return child.returncode, stdout, stderr


def test_a_mirror_and_a_token_come_from_the_environment(hub: Hub, out: Path, expected: bytes) -> None:
    hub.token = "hf_secret"
    code, stdout, stderr = finish(start(hub, out, HF_TOKEN="hf_secret"))
    assert (code, len([line for line in stderr.splitlines() if "default model" not in line])) == (0, 2)
    assert stdout.startswith(f"{out}: ")
    assert "hf_secret" not in stdout + stderr
    assert out.read_bytes() == expected


def test_ctrl_c_is_exit_130_and_the_same_command_continues(hub: Hub, out: Path, expected: bytes) -> None:
    hub.pause = 0.004
    child = start(hub, out)
    while hub.sent[shard(2)] == 0:
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    code, _, stderr = finish(child)
    assert code == 130
    assert stderr.splitlines()[-1] == "error: interrupted"
    hub.pause = 0
    hub.asked.clear()
    assert finish(start(hub, out))[0] == 0
    assert out.read_bytes() == expected
    assert not any(shard(1) in line for line in hub.asked)


def test_offline_it_says_what_is_missing_where_to_put_it_and_goes_on_from_there(
    hub: Hub, out: Path, checkpoint: Path, expected: bytes
) -> None:
    code, _, stderr = finish(start(hub, out, HF_HUB_OFFLINE="1"))
    assert code == 6
    assert stderr.count("\n") == 1
    assert "HF_HUB_OFFLINE is set" in stderr
    assert "glm-edge convert FOLDER --type edge" in stderr
    hub.pause = 0.004
    child = start(hub, out)
    while hub.sent[shard(4)] == 0:
        assert child.poll() is None
    child.kill()
    finish(child)
    hub.asked.clear()
    code, _, stderr = finish(start(hub, out, HF_HUB_OFFLINE="1"))
    folder = out.parent / "x.gguf.pull" / "chatglm2-small"
    assert code == 6
    assert (
        f"fetch {shard(4)}, {shard(5)} from {hub.endpoint}/{REPO}/tree/{hub.commit}, put them into {folder} " in stderr
    )
    (folder / shard(4)).write_bytes(b"another")
    code, _, stderr = finish(start(hub, out, HF_HUB_OFFLINE="1"))
    assert (code, f"the {shard(4)} that was there is another file" in stderr) == (6, True)
    for n in (4, 5):
        shutil.copyfile(checkpoint / shard(n), folder / shard(n))
    assert finish(start(hub, out, HF_HUB_OFFLINE="1"))[0] == 0
    assert out.read_bytes() == expected
    assert hub.asked == []


def test_without_a_network_it_says_what_to_do(out: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot be reached \(.*\); .*glm-edge convert FOLDER"):
        pull(REPO, out, endpoint="http://127.0.0.1:9", retries=())


def test_a_disk_without_room_is_found_before_a_shard_is_fetched(
    hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    usage = shutil.disk_usage(out.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=3_000_000))
    with pytest.raises(StorageError, match=r"needs .* MB and the disk has 3\.000 MB free"):
        pull(REPO, out, endpoint=hub.endpoint, say=lines.append)
    assert not any(".bin " in line for line in hub.asked)
    assert "for a shard" in lines[0]


@pytest.mark.parametrize("variable", ["HF_ENDPOINT", "HF_HUB_DOWNLOAD_TIMEOUT"])
def test_a_variable_of_the_client_that_makes_no_sense_is_exit_2(hub: Hub, out: Path, variable: str) -> None:
    code, _, stderr = finish(start(hub, out, **{variable: "http://localhost:port"}))
    assert code == 2
    assert "check HF_ENDPOINT" in stderr.splitlines()[-1]
    assert list(out.parent.iterdir()) == []


def test_short_writes_lose_nothing(hub: Hub, out: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, memoryview(data)[: 1 + len(data) // 3]))
        pull(REPO, out, endpoint=hub.endpoint, threads=1)
    assert out.read_bytes() == expected


@pytest.mark.parametrize("k", [1, 8, 14], ids=str)
def test_a_disk_that_fills_is_exit_6_and_room_on_it_lets_the_pull_go_on(
    hub: Hub, out: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    real, count = os.write, 0

    def write(fd: int, data: Any) -> int:
        nonlocal count
        count += 1
        if count == k:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(StorageError, match="No space left on device") as caught:
            pull(REPO, out, endpoint=hub.endpoint, threads=1)
    assert "\n" not in str(caught.value)
    pull(REPO, out, endpoint=hub.endpoint)
    assert out.read_bytes() == expected


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no fsync there")
def test_a_folder_that_takes_no_name_at_the_end_costs_nothing_of_what_is_done(
    hub: Hub, out: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), out.parent.stat()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageError, match=os.strerror(errno.EIO)):
            pull(REPO, out, endpoint=hub.endpoint)
    assert not out.exists()
    hub.asked.clear()
    pull(REPO, out, endpoint=hub.endpoint)
    assert out.read_bytes() == expected
    assert hub.asked == ["LIST main"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as Unix does")
def test_a_file_that_may_not_grow_is_one_line(hub: Hub, out: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, -1)); "
    command = [sys.executable, "-c", f"{limit}{COMMAND[2]}", "pull", REPO, "--out", str(out)]
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert done.stderr.splitlines()[-1] == f"error: {out}: cannot be written: File too large"


def test_convert_with_the_name_of_a_repository_says_how_to_fetch_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(glm_edge, ["convert", "THUDM/chatglm2-6b", "--type", "edge"], prog_name="glm-edge") == 6
    assert "glm-edge pull THUDM/chatglm2-6b --type edge" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from glm_edge.cli import glm_edge, run; run(glm_edge, ['pull', '--help'], prog_name='x');"
        "print(sorted({'huggingface_hub', 'numpy', 'tqdm', 'llama_cpp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--revision" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
