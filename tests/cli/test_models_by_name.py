"""Models by name: `list`, `use` and `rm`, and what a conversion does with its result."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from glm_edge.cli import glm_edge
from glm_edge.cli.names import find_model, known_models, notes_path
from glm_edge.convert.convert import convert
from glm_edge.errors import InvalidFileError, StorageError, UsageError
from glm_edge.system.default_model import entry_path, read_default, write_default

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the config folder is named by XDG_CONFIG_HOME")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty config folder, and an empty current folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    if entry_path(everyone=True).exists():
        pytest.skip(f"this machine has a default model: {entry_path(everyone=True)}")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture(scope="module")
def made(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(small_checkpoint, tmp_path_factory.mktemp("made") / "made.gguf", type="q8_0").path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(glm_edge, [str(argument) for argument in arguments])


def put(made: Path, *names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy(made, name)


def test_a_conversion_ends_with_the_next_command_and_the_first_becomes_the_default(
    small_checkpoint: Path, folder: Path
) -> None:
    first = call("convert", small_checkpoint, "--type", "q8_0", "--out", "first.gguf")
    assert first.stderr.splitlines() == ["it is the default model now", "next: glm-edge chat"]
    second = call("convert", small_checkpoint, "--type", "q8_0", "--out", "second.gguf")
    assert second.stderr.splitlines() == ["next: glm-edge chat --model second"]
    default = read_default()
    assert default is not None
    assert default.model == folder / "first.gguf"


def test_a_conversion_ends_well_where_no_setting_can_be_written(small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("in the way")
    done = call("convert", small_checkpoint, "--type", "q8_0", "--out", "first.gguf")
    assert done.exit_code == 0
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["warning", "next"]


def test_what_was_made_is_found_from_every_folder(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("convert", small_checkpoint, "--type", "q8_0", "--out", "far.gguf")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    call("use", "demo")
    assert find_model(Path("far")) == tmp_path / "here" / "far.gguf"
    assert notes_path().stat().st_mode & 0o777 == 0o600


def test_list_shows_each_once_with_its_facts_and_the_default(made: Path, folder: Path) -> None:
    put(made, "models/b.gguf", "a.gguf")
    Path("models/broken.gguf").write_bytes(b"GGUF")
    assert call("use", "b").stdout == f"the default model: {folder / 'models/b.gguf'}\n"
    done = call("list")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["NAME", "TYPE", "SIZE", "CONTEXT", "WHERE"]
    assert lines[1][:2] == ["a", "q8_0"]
    assert lines[2][:3] == ["*", "b", "q8_0"]
    assert lines[2][-1] == str(folder / "models/b.gguf")
    assert lines[3][:2] == ["broken", "?"]
    assert lines[4][0] == "demo"
    assert done.stderr.startswith(f"warning: {folder / 'models/broken.gguf'}: ")
    found = json.loads(call("list", "--json").stdout)
    assert [(row["name"], row["default"]) for row in found] == [("a", False), ("b", True), ("broken", False)]


@pytest.mark.parametrize("verb", [["verify"], ["tokenize", "--model"], ["doctor", "--model"]])
def test_every_verb_takes_a_name(made: Path, verb: list[str]) -> None:
    put(made, "models/mine.gguf")
    done = call(*verb, "mine")
    assert done.exit_code == 0, done.output


def test_the_environment_names_a_model_and_the_option_goes_first(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(made, "mine.gguf", "other.gguf")
    monkeypatch.setenv("GLM_EDGE_MODEL", "gone")
    assert isinstance(call("tokenize").exception, StorageError)
    assert call("tokenize", "--model", "other").exit_code == 0
    monkeypatch.setenv("GLM_EDGE_MODEL", "mine")
    assert call("tokenize").exit_code == 0
    assert "GLM_EDGE_MODEL or the configuration file names a model, which goes first" in call("list").stderr


def test_a_wrong_name_is_told_the_nearest(made: Path) -> None:
    put(made, "chatglm2-6b-edge.gguf")
    with pytest.raises(StorageError, match=r"no model of this name; did you mean chatglm2-6b-edge\?"):
        find_model(Path("chatglm2-6b-egde"))
    with pytest.raises(StorageError, match="glm-edge list shows those that are there"):
        find_model(Path("xyz"))


def test_a_file_name_is_told_where_that_file_is(made: Path, folder: Path) -> None:
    put(made, "models/alpha.gguf")
    for verb in (["use", "alpha.gguf"], ["tokenize", "--model", "alpha.gguf"]):
        error = call(*verb).exception
        assert str(error).endswith(f"did you mean alpha, {folder / 'models/alpha.gguf'}?")


def test_a_line_break_in_a_name_is_shown_on_one_line(made: Path) -> None:
    put(made, "two\nlines.gguf")
    assert [line.split()[0] for line in call("list").stdout.splitlines()] == ["NAME", "two?lines", "*"]


def test_a_name_that_two_files_have_is_refused_with_both_paths(made: Path, folder: Path) -> None:
    put(made, "models/mine.gguf", "mine.gguf")
    with pytest.raises(UsageError, match=f"{folder / 'mine.gguf'}, {folder / 'models/mine.gguf'}"):
        find_model(Path("mine"))


def test_a_folder_of_the_same_name_does_not_hide_a_model(made: Path, folder: Path) -> None:
    put(made, "models/mine.gguf")
    Path("mine").mkdir()
    assert find_model(Path("mine")) == folder / "models/mine.gguf"


def test_use_refuses_what_is_no_model_and_changes_nothing(made: Path) -> None:
    put(made, "good.gguf")
    Path("bad.gguf").write_bytes(b"GGUF")
    call("use", "good")
    assert isinstance(call("use", "bad").exception, InvalidFileError)
    default = read_default()
    assert default is not None
    assert default.model.name == "good.gguf"


def test_use_demo_goes_before_a_default_of_the_machine(made: Path) -> None:
    put(made, "good.gguf")
    call("use", "good")
    assert call("use", "demo").exit_code == 0
    assert read_default() is None


def test_rm_removes_the_model_with_its_prefixes_and_nothing_else(made: Path, folder: Path) -> None:
    put(made, "mine.gguf")
    Path("mine.gguf.prefixes").mkdir()
    Path("mine.gguf.prefixes/a.prefix").touch()
    Path("mine.gguf.prefixes/notes.txt").touch()
    call("use", "mine")
    done = call("rm", "mine", "--yes")
    assert done.stdout == f"removed {folder / 'mine.gguf'}\n"
    assert [path.name for path in folder.rglob("*")] == ["mine.gguf.prefixes", "notes.txt"]
    assert not entry_path().exists()
    assert known_models() == []


def test_rm_asks(made: Path) -> None:
    put(made, "mine.gguf")
    assert isinstance(call("rm", "mine").exception, UsageError)  # nobody is there to say yes
    assert Path("mine.gguf").exists()


@pytest.mark.parametrize("name", ["foreign.gguf", "models", "text.txt", "link.gguf", "demo", "gone"])
def test_rm_removes_nothing_that_is_not_ours(made: Path, folder: Path, name: str) -> None:
    put(made, "models/mine.gguf")
    Path("foreign.gguf").write_bytes(b"GGUF of another program")
    Path("text.txt").touch()
    Path("link.gguf").symlink_to("models/mine.gguf")
    before = sorted(folder.rglob("*"))
    done = call("rm", name, "--yes")
    assert isinstance(done.exception, UsageError if name == "demo" else (InvalidFileError, StorageError))
    assert sorted(folder.rglob("*")) == before


def test_rm_removes_a_broken_file_in_the_models_folder(folder: Path) -> None:
    Path("models").mkdir()
    Path("models/broken.gguf").write_bytes(b"GGUF")
    assert call("rm", "broken", "--yes").exit_code == 0
    assert not Path("models/broken.gguf").exists()


def test_a_default_elsewhere_brings_its_neighbours(made: Path, tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    put(made, str(tmp_path / "opt" / "one.gguf"), str(tmp_path / "opt" / "two.gguf"))
    write_default(tmp_path / "opt" / "one.gguf", entry_path())
    assert [model.name for model in known_models()] == ["one", "two"]
