"""`glm-edge convert` and `python -m convert`: results on stdout, one line of error on stderr, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glm_edge.cli import glm_edge, run
from support.checkpoints.small_checkpoint import CONFIG, tokenizer_proto, write_checkpoint
from support.paths import PROJECT


def convert(*arguments: str | Path) -> int:
    return run(glm_edge, ["convert", *map(str, arguments)], prog_name="glm-edge")


def test_the_result_goes_to_stdout_and_nothing_else(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.gguf"
    assert convert(small_checkpoint, "--out", out, "--type", "Q4_0", "--threads", "1") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{out}: ")
    assert "q6_k" in shown.out
    said = shown.err.splitlines()  # progress is for terminals
    assert said[-1] in ("next: glm-edge chat", "next: glm-edge chat --model x")
    assert out.stat().st_size > 0


def test_the_default_type_is_edge_and_the_name_says_so(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert convert(small_checkpoint) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["chatglm2-small-edge.gguf"]


def _exists(folder: Path, out: Path) -> Path:
    out.write_bytes(b"old")
    return write_checkpoint(folder)


def _cut_tokenizer(folder: Path, out: Path) -> Path:
    return write_checkpoint(folder, tokenizer=tokenizer_proto()[:-1])


def _cut_shard(folder: Path, out: Path) -> Path:
    shard = write_checkpoint(folder) / "pytorch_model.bin"
    shard.write_bytes(shard.read_bytes()[:-100])
    return folder


def _other_model(folder: Path, out: Path) -> Path:
    return write_checkpoint(folder, config=CONFIG | {"model_type": "llama"})


def _missing(folder: Path, out: Path) -> Path:
    return folder


CASES = {"exists": (_exists, 2), "cut_tokenizer": (_cut_tokenizer, 3), "cut_shard": (_cut_shard, 3)} | {
    "other_model": (_other_model, 5),
    "missing": (_missing, 6),
}


@pytest.mark.parametrize(("make", "code"), CASES.values(), ids=CASES.keys())
def test_an_error_is_one_line_and_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, code: int
) -> None:
    assert callable(make)
    out = tmp_path / "out" / "x.gguf"
    out.parent.mkdir()
    checkpoint = make(tmp_path / "model", out)
    before = [path.read_bytes() for path in out.parent.iterdir()]
    assert convert(checkpoint, "--out", out) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert [path.read_bytes() for path in out.parent.iterdir()] == before


@pytest.mark.case("C1")
@pytest.mark.parametrize(
    "options",
    [["--threads", "0"], ["--threads", "1000000"], ["--type", "q9"], ["--what"], []],
    ids=" ".join,
)
def test_bad_options_are_exit_2(tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*options, str(tmp_path)] if options else []
    assert convert(*arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_python_m_convert_works_in_a_checkout(small_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    command = [sys.executable, "-W", "error", "-m", "convert", str(small_checkpoint), "--out", str(out)]
    environment = os.environ | {"LANG": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("next: glm-edge chat")
    assert out.is_file()
    again = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert again.stderr.count("\n") == 1


@pytest.mark.parametrize("start", [["-m", "convert"], ["-m", "glm_edge", "convert"]], ids=["module", "verb"])
def test_debug_shows_where_an_error_comes_from(tmp_path: Path, start: list[str]) -> None:
    command = [sys.executable, *start, str(tmp_path / "nowhere"), "--debug"]
    folder = PROJECT if start[1] == "convert" else tmp_path  # the checkout's glm_edge is not the installed one
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "StorageError" in done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from glm_edge.cli import glm_edge, run; run(glm_edge, ['convert', '--help'], prog_name='x');"
        "print(sorted({'llama_cpp', 'numpy', 'gguf', 'sentencepiece', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--force" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_converting_never_loads_llama_cpp(small_checkpoint: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from glm_edge.convert.convert import convert;"
        "convert(Path(sys.argv[1]), Path(sys.argv[2]));"
        "print(sorted({'llama_cpp', 'flask', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(small_checkpoint), str(tmp_path / "x.gguf")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


@pytest.mark.case("V14")
@pytest.mark.skipif(os.name == "nt", reason="closes streams as POSIX shells do")
@pytest.mark.parametrize("closed", ["0<&-", ">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_change_nothing(small_checkpoint: Path, tmp_path: Path, closed: str) -> None:
    command = f'"{sys.executable}" -m glm_edge convert "$0" --out "$1" {closed}'
    for code in (0, 2):  # the second time the output is there
        arguments = ["sh", "-c", command, str(small_checkpoint), str(tmp_path / "x.gguf")]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.case("V14")
@pytest.mark.parametrize("start", [["-m", "convert"], ["-c", "from glm_edge.cli import main; main()", "convert"]])
def test_a_reader_that_leaves_changes_nothing(small_checkpoint: Path, tmp_path: Path, start: list[str]) -> None:
    out = tmp_path / "x.gguf"
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, *start, str(small_checkpoint), "--out", str(out)]
    where = PROJECT if start[0] == "-m" else tmp_path  # `python -m convert` is for checkouts
    done = subprocess.run(command, cwd=where, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert out.is_file()
