"""What the verbs say of wrong options and files: one line in plain words, and the same for every verb."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from glm_edge.cli import glm_edge, run
from glm_edge.convert.recipes import RECIPES
from glm_edge.errors import StorageError


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


def test_a_missing_model_is_told_before_an_empty_prompt(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, message = refused(capsys, "chat", "--model", tmp_path / "none.gguf", "--prompt", "")
    assert (code, message) == (6, f"{tmp_path / 'none.gguf'}: there is no such file")


@pytest.mark.case("C1")
@pytest.mark.parametrize(
    ("option", "value", "takes"),
    [
        ("serve --ctx", "10", "a whole number of at least 64"),
        ("chat --max-tokens", "abc", "a whole number of at least 1"),
        ("chat --max-tokens", "1.5", "a whole number of at least 1"),
        ("serve --port", "70000", "a whole number from 0 to 65535"),
        ("serve --threads", "0", "a whole number from 1 to 1024"),
        ("serve --grace", "nan", "a number of at least 0"),
        ("serve --grace", "soon", "a number of at least 0"),
        ("chat --temperature", "3", "a number from 0 to 2"),
    ],
)
def test_a_wrong_number_is_told_what_the_option_takes(
    capsys: pytest.CaptureFixture[str], option: str, value: str, takes: str
) -> None:
    verb, name = option.split()
    assert refused(capsys, verb, name, value) == (
        2,
        f"{name} takes {takes}, not '{value}' (see glm-edge {verb} --help)",
    )


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ("sreve", "there is no command 'sreve'; did you mean serve? (see glm-edge --help)"),
        ("serve --prot 1", "'--port', '--proxy'?) (see glm-edge serve --help)"),
        ("convert x --type q8", "not 'q8'; did you mean q8_0? (see glm-edge convert --help)"),
        ("bundle x --for linux-arm", "not 'linux-arm'; did you mean linux-aarch64? (see glm-edge bundle --help)"),
        ("completion bsh", "not 'bsh'; did you mean bash? (see glm-edge completion --help)"),
    ],
)
def test_what_is_nearly_right_is_told_the_right_word(capsys: pytest.CaptureFixture[str], words: str, end: str) -> None:
    code, message = refused(capsys, *words.split())
    assert code == 2
    assert message.endswith(end)


FILES = ["verify", "convert", "warm --prompts", "perplexity", "chat --model", "serve --api-key-file", "use", "rm"]


@pytest.mark.parametrize("verb", FILES)
def test_a_file_that_is_not_there_is_exit_6_for_every_verb(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str
) -> None:
    code, message = refused(capsys, *verb.split(), tmp_path / "none.gguf")
    assert code == 6
    assert message.startswith(f"{tmp_path / 'none.gguf'}: ")


@pytest.mark.parametrize("verb", ["convert", "pull"])
def test_a_wrong_type_is_told_the_names_and_each_once(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, message = refused(capsys, verb, "--type", "q9", "x")
    assert code == 2
    names = message.removeprefix("--type takes one of ").partition(", not 'q9'")[0].split(", ")
    assert names == list(RECIPES)


@pytest.mark.parametrize("verb", ["", *glm_edge.list_commands(click.Context(glm_edge)), "service install"])
def test_debug_is_an_option_of_every_verb(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert run(glm_edge, [*verb.split(), "--help"], prog_name="glm-edge") == 0
    assert capsys.readouterr().out.count("--debug") == 1


def test_debug_gives_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        run(glm_edge, ["verify", str(tmp_path / "none"), "--debug"], prog_name="glm-edge")
