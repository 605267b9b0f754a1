"""`glm-edge serve` before it serves: what it refuses, with which exit code, and that it loads nothing for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_edge.api.config import ServeConfig
from glm_edge.api.serve import serve
from glm_edge.cli import glm_edge, run
from glm_edge.types import Engine


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLM_EDGE_API_KEY", raising=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file that no engine would load: exit code 3 would show that one was asked to."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model")
    return path


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def outcome(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = run(glm_edge, ["serve", *map(str, arguments)], prog_name="glm-edge")
    output = capsys.readouterr()
    assert output.out == ""
    errors = [line for line in output.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return code, output.err


def test_a_folder_or_a_missing_file_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert outcome(capsys, "--model", tmp_path)[0] == 3
    code, message = outcome(capsys, "--model", tmp_path / "none.gguf")
    assert code == 6
    assert "none.gguf" in message
    (tmp_path / "config.json").write_text("{}")
    assert "glm-edge convert" in outcome(capsys, "--model", tmp_path)[1]


@pytest.mark.parametrize("alias", ["", " "], ids=["empty", "space"])
def test_a_name_that_is_empty_is_refused(capsys: pytest.CaptureFixture[str], model: Path, alias: str) -> None:
    code, message = outcome(capsys, "--model", model, "--alias", alias)
    assert code == 2
    assert "--alias is empty" in message


@pytest.mark.case("A10")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_listening_beyond_loopback_without_a_key_is_refused(
    capsys: pytest.CaptureFixture[str], model: Path, host: str
) -> None:
    code, message = outcome(capsys, "--model", model, "--host", host, "--port", 0)
    assert code == 2
    assert "--host" in message
    assert "--api-key" in message
    assert "--api-key-file" in message


@pytest.mark.case("D9")
def test_a_port_in_use_is_found_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str], model: Path, taken: int
) -> None:
    for host in ("127.0.0.1", "localhost"):
        code, message = outcome(capsys, "--model", model, "--host", host, "--port", taken)
        assert code == 6
        assert f"{host} port {taken}" in message


@pytest.mark.case("D9")
def test_an_address_of_another_machine_cannot_be_had(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, message = outcome(capsys, "--model", model, "--host", "192.0.2.1", "--port", 0, "--api-key", "k")
    assert code == 6
    assert "192.0.2.1" in message


@pytest.mark.case("D9")
def test_an_address_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    label = "a" * 64  # one more than a name's part may have, so that nobody is asked for it
    code, message = outcome(capsys, "--model", model, "--host", label, "--api-key", "k")
    assert code == 2
    assert label in message


@pytest.mark.case("C1")
@pytest.mark.parametrize(
    "options",
    [
        ["--port", "70000"],
        ["--port", "x"],
        ["--ctx", "0"],
        ["--threads", "0"],
        ["--threads", "-1"],
        ["--threads", "1000000"],
        ["--grace", "-1"],
        ["--grace", "nan"],
        ["--max-wait", "nan"],
        ["--nonsense"],
    ],
    ids=" ".join,
)
def test_a_bad_option_is_named_with_its_range(
    capsys: pytest.CaptureFixture[str], model: Path, options: list[str]
) -> None:
    code, message = outcome(capsys, "--model", model, *options)
    assert code == 2
    assert options[0] in message


@pytest.mark.case("A13")
@pytest.mark.parametrize("content", [b"", b"two words\n"], ids=repr)
def test_a_key_file_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    code, message = outcome(capsys, "--model", model, "--api-key-file", file)
    assert code == 2
    assert str(file) in message


def test_an_empty_key_is_refused_wherever_it_comes_from(
    capsys: pytest.CaptureFixture[str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcome(capsys, "--model", model, "--api-key", "")[0] == 2
    monkeypatch.setenv("GLM_EDGE_API_KEY", "")
    assert outcome(capsys, "--model", model)[0] == 2


@pytest.mark.case("A13")
@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_a_readable_key_file_is_warned_about(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, taken: int
) -> None:
    file = tmp_path / "keys"
    file.write_text("k\n")
    file.chmod(0o644)
    code, message = outcome(capsys, "--model", model, "--api-key-file", file, "--port", taken)
    assert code == 6
    assert "chmod 600" in message


@pytest.mark.case("N16")
def test_a_key_as_an_option_works_and_it_is_said_who_can_see_it(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, message = outcome(capsys, "--model", model, "--api-key", "k1", "--api-key", "k2", "--port", taken)
    assert code == 6  # past the keys, at the port
    (warning,) = [line for line in message.splitlines() if line.startswith("warning: ")]
    for words in ("other users of this machine", "--api-key-file", "GLM_EDGE_API_KEY"):
        assert words in warning
    assert "k1" not in warning
    file = tmp_path / "keys"
    file.write_text("k\n")
    file.chmod(0o600)
    monkeypatch.setenv("GLM_EDGE_API_KEY", "k")
    assert "warning" not in outcome(capsys, "--model", model, "--api-key-file", file, "--port", taken)[1]


def test_a_key_in_the_environment_allows_to_listen_beyond_loopback(taken: int) -> None:
    from glm_edge.api.access.keys import Keys
    from glm_edge.errors import StorageError

    def load() -> Engine:
        raise AssertionError("loaded")

    keys = Keys.collect([], None, {"GLM_EDGE_API_KEY": "k"})
    with pytest.raises(StorageError, match=str(taken)):  # past the check of keys, and not yet at the model
        serve(load, ServeConfig("0.0.0.0", taken, keys))
