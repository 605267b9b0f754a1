"""The default model: which commands use it, what they say, and entries that cannot be used."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from glm_edge.cli import glm_edge
from glm_edge.convert.convert import convert
from glm_edge.errors import InvalidFileError, StorageError, UsageError
from glm_edge.system.default_model import entry_path, read_default, write_default

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the config folder is named by XDG_CONFIG_HOME")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty config folder, in which settings of this machine's user play no part."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    if entry_path(everyone=True).exists():
        pytest.skip(f"this machine has a default model: {entry_path(everyone=True)}")
    return tmp_path / "config" / "glm-edge"


@pytest.fixture
def model(small_checkpoint: Path, tmp_path: Path) -> Path:
    return convert(small_checkpoint, tmp_path / "小 model.gguf", type="q8_0").path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(glm_edge, arguments)


def test_chat_takes_it_and_says_so(config: Path, model: Path) -> None:
    write_default(model, entry_path())
    done = call("chat", "--prompt", "x", "--max-tokens", "1", "--no-cache")
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[0] == f"the default model: {model}"


def test_a_named_model_goes_first(config: Path, model: Path) -> None:
    write_default(config / "gone.gguf", entry_path())
    done = call("chat", "--model", str(model), "--prompt", "x", "--max-tokens", "1", "--no-cache")
    assert done.exit_code == 0, done.output
    assert "default model" not in done.stderr


@pytest.mark.case("B12")
def test_every_verb_that_runs_the_demo_by_itself_takes_the_default_first(config: Path, tmp_path: Path) -> None:
    write_default(tmp_path / "gone.gguf", entry_path())
    words = {"perplexity": [str(entry_path())], "chat": ["--prompt", "x"]}
    for name in ("chat", "serve", "bench", "perplexity"):
        error = call(name, *words.get(name, [])).exception
        assert isinstance(error, StorageError), name
        assert str(error) == (
            f"{tmp_path / 'gone.gguf'}: the default model is gone; put it back, name another with --model, or choose"
            " another default: glm-edge use NAME (demo is the demo model)"
        )


def test_doctor_looks_at_it(config: Path, model: Path, tmp_path: Path) -> None:
    write_default(model, entry_path())
    assert json.loads(call("doctor", "--json").stdout)["next"] == f"next: glm-edge chat --model {model}"
    write_default(tmp_path / "gone.gguf", entry_path())
    done = call("doctor", "--json")
    assert done.exit_code == 1
    (finding,) = (finding for finding in json.loads(done.stdout)["findings"] if finding["topic"] == "model")
    assert finding["text"].startswith(f"{tmp_path / 'gone.gguf'}: cannot be read")


def test_help_says_what_is_taken_where_no_model_is_named() -> None:
    for name in ("chat", "serve", "bench", "perplexity", "doctor", "tokenize", "warm"):
        command = glm_edge.get_command(click.Context(glm_edge), name)
        assert command is not None
        (option,) = (option for option in command.params if option.name == "model")
        assert "default model" in str(getattr(option, "help", ""))


def test_without_an_entry_there_is_none(config: Path) -> None:
    assert read_default() is None
    assert not config.exists()


@pytest.mark.case("B12")
@pytest.mark.parametrize("content", [b"", b"\n", b"models/relative.gguf\n", b"\0\n", b"x" * 100_000])
def test_an_entry_that_names_no_model_is_refused(config: Path, content: bytes) -> None:
    config.mkdir(parents=True)
    entry_path().write_bytes(content)
    with pytest.raises(InvalidFileError, match=re.escape(str(entry_path()))):
        read_default()


def test_an_entry_that_is_no_file_is_refused_and_nothing_waits(config: Path, tmp_path: Path) -> None:
    config.mkdir(parents=True)
    os.mkfifo(entry_path())
    with pytest.raises(InvalidFileError, match="is a named pipe"):
        read_default()
    entry_path().unlink()
    entry_path().symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="cannot be read"):
        read_default()


def test_the_entry_is_the_users_alone_and_written_whole(config: Path, model: Path, tmp_path: Path) -> None:
    write_default(tmp_path / "first.gguf", entry_path())
    write_default(model, entry_path())
    assert entry_path().read_bytes() == os.fsencode(model) + b"\n"
    assert entry_path().stat().st_mode & 0o777 == 0o600
    assert config.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in config.iterdir()] == ["default-model"]
    for wrong in (Path("relative.gguf"), Path("/two\nlines.gguf")):
        with pytest.raises(UsageError, match="a default model is named by its whole path"):
            write_default(wrong, entry_path())
