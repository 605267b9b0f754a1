"""`--calibrate`: the bytes of the three commands one after the other, nothing beside them, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.checkpoints.fake_hub import REPO, Hub, files_of, serving
from support.commands import done
from support.server.live_server import eventually


@pytest.fixture(scope="module")
def by_hand(small_checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("by-hand")
    q8_0, matrix, made = (folder / name for name in ("q8_0.gguf", "matrix", "by-hand.gguf"))
    assert done("convert", small_checkpoint, "--type", "q8_0", "--out", q8_0) == 0
    assert done("imatrix", q8_0, "--out", matrix, "--text", text, "--threads", 1) == 0
    assert done("convert", small_checkpoint, "--type", "q4_0", "--out", made, "--imatrix", matrix) == 0
    return made.read_bytes()


def test_convert_gives_the_bytes_of_the_three_commands_and_leaves_nothing_else(
    small_checkpoint: Path, text: Path, out: Path, by_hand: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    options = ("--type", "q4_0", "--calibrate", "--text", text, "--threads", 1)
    assert done("convert", small_checkpoint, "--out", out, *options) == 0
    assert "of disk; converts to q8_0, measures that (less than a minute)" in capsys.readouterr().err
    assert [path.name for path in out.parent.iterdir()] == ["x.gguf"]
    assert out.read_bytes() == by_hand


def test_pull_does_too_and_keeps_the_matrix_for_the_next_time(
    small_checkpoint: Path, text: Path, out: Path, by_hand: bytes, tmp_path: Path
) -> None:
    options = ("--out", str(out), "--type", "q4_0", "--calibrate", "--text", str(text), "--threads", "1")
    with serving(Hub(files_of(small_checkpoint))) as hub:

        def pull(*more: str) -> None:  # a program of its own: the client reads the address when it is imported
            command = [sys.executable, "-m", "glm_edge", "pull", REPO, *options, *more]
            environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
            ended = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
            assert ended.returncode == 0, ended.stderr

        pull()
        assert sorted(path.name for path in out.parent.iterdir()) == ["x.gguf", "x.gguf.imatrix"]
        assert out.read_bytes() == by_hand
        assert hub.asked.count("GET pytorch_model.bin 0") == 2
        pull("--force")
        assert hub.asked.count("GET pytorch_model.bin 0") == 3
    assert out.read_bytes() == by_hand


def test_pull_refuses_a_file_of_others_in_the_place_of_its_own(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = out.with_name(".x.gguf.q8_0")
    taken.write_bytes(b"mine")
    assert done("pull", REPO, "--out", out, "--calibrate") == 3
    assert "error: " + str(taken) in capsys.readouterr().err
    assert taken.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--calibrate", "--imatrix", "i"), "leave one of them out"),
        (("--text", "t"), "--text is for --calibrate"),
        (("--calibrate", "--type", "q8_0"), "type q8_0 uses no importance matrix"),
    ],
)
@pytest.mark.parametrize("verb", ["convert", "pull"])
def test_options_that_contradict_each_other_are_refused(
    verb: str, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert done(verb, "owner/name", *options) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_a_text_that_is_too_short_is_refused_before_anything_is_converted(
    small_checkpoint: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("short")
    assert done("convert", small_checkpoint, "--out", out, "--calibrate", "--text", text) == 3
    assert "fewer than the 512" in capsys.readouterr().err
    assert not list(out.parent.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has mapped is seen in /proc")
def test_ctrl_c_while_it_measures_leaves_nothing(small_checkpoint: Path, text: Path, tmp_path: Path, out: Path) -> None:
    long = tmp_path / "text"
    long.write_text(200 * text.read_text("utf-8"), "utf-8")
    options = [*map(str, (small_checkpoint, "--out", out)), "--calibrate", "--text", str(long), "--threads", "1"]
    command = [sys.executable, "-m", "glm_edge", "convert", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        maps = Path(f"/proc/{child.pid}/maps")
        assert eventually(lambda: child.poll() is not None or ".q8_0." in maps.read_text("utf-8"), 300)
        child.send_signal(signal.SIGINT)  # does nothing to one that has ended, whose error is shown below
        _, err = child.communicate(timeout=300)
    assert child.returncode == 130, err
    assert err.splitlines()[-1] == "error: interrupted"
    assert not os.listdir(out.parent)
