"""Files that a user names: what is no file is refused in a line, nothing waits, and nothing is read without a limit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from glm_edge.api.access.keys import Keys
from glm_edge.cli import glm_edge
from glm_edge.cli.run import run
from glm_edge.errors import GlmEdgeError, InvalidFileError
from glm_edge.system.profile import Profile, load_profile, save_profile
from glm_edge.system.safe_open import read_file

pytestmark = [pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX's"), pytest.mark.case("N2")]

NO_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "a loop": lambda path: path.symlink_to(path.name),
    "a file without end": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
}


@pytest.fixture(params=NO_FILES.values(), ids=NO_FILES)
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "named"
    request.param(path)
    return path


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which a command is refused."""
    code = run(glm_edge, [str(argument) for argument in arguments], prog_name="glm-edge")
    assert code == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_prompts_to_warm(no_file: Path, tiny_f32: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(no_file) in said(capsys, "warm", "--model", tiny_f32, "--prompts", no_file)


def test_a_text_to_predict(no_file: Path, tiny_f32: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(no_file) in said(capsys, "perplexity", no_file, "--model", tiny_f32)


def test_a_key_file_at_the_start(no_file: Path, tiny_f32: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(no_file) in said(capsys, "serve", "--model", tiny_f32, "--api-key-file", no_file, "--port", 0)


@pytest.mark.parametrize("make", NO_FILES.values(), ids=NO_FILES)
def test_a_key_file_that_is_replaced_while_serving_opens_nothing(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    file = tmp_path / "keys"
    file.write_text("good\n")
    keys = Keys(file=file)
    assert keys.accept(None, b"good")
    file.unlink()
    make(file)
    assert not keys.accept(None, b"good")
    file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    file.write_text("good\n")
    assert keys.accept(None, b"good")


def test_a_profile(no_file: Path) -> None:
    assert load_profile(no_file, {}) is None


def test_a_limit_holds_for_a_file_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 11)
    assert read_file(path, 11) == b"x" * 11
    with pytest.raises(InvalidFileError, match="larger than the 10 bytes"):
        read_file(path, 10)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert len(read_file(link, 11)) == 11
    with pytest.raises(GlmEdgeError, match="is a link"):
        read_file(link, 11, follow=False)


@pytest.mark.case("N15")
def test_a_profile_is_the_owners_alone_whatever_the_mask(tmp_path: Path) -> None:
    path = tmp_path / "config" / "glm-edge" / "profile.json"
    before = os.umask(0)
    try:
        save_profile(path, Profile(1, 1, 32, False, "llama"), {})
    finally:
        os.umask(before)
    assert [folder.stat().st_mode & 0o777 for folder in (path, path.parent, path.parent.parent)] == [
        0o600,
        0o700,
        0o700,
    ]
