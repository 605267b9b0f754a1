"""What the verbs say of wrong options and files: one line in plain words, and the same for every verb."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_edge.cli import glm_edge, run


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """(exit code, message) of a command that fails."""
    code = run(glm_edge, [str(argument) for argument in arguments], prog_name="glm-edge")
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    return code, errors[0].removeprefix("error: ")


@pytest.mark.case("M7")
@pytest.mark.parametrize("verb", ["chat --model", "serve --model", "bench --model", "tokenize --model", "verify"])
def test_a_folder_as_model_is_exit_3_for_every_verb(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str
) -> None:
    (tmp_path / "a.gguf").touch()
    code, message = refused(capsys, *verb.split(), tmp_path)
    assert code == 3
    assert message == f"{tmp_path}: is a folder, not a model file; name a GGUF file in it, as {tmp_path / 'a.gguf'}"
