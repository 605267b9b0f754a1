"""The configuration file: what goes before what, what is refused, and that every option of every verb may be in it."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from glm_edge.cli import glm_edge
from glm_edge.cli.config_file import all_commands, config_path, configured, options_of
from glm_edge.errors import InvalidFileError, StorageError, UsageError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the config folder is named by XDG_CONFIG_HOME")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config_path().parent.mkdir()
    return tmp_path


def write(text: str) -> None:
    config_path().write_text(text, "utf-8")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(glm_edge, arguments)


def seen(verb: str, *arguments: str) -> dict[str, object]:
    """What a verb's function would be called with."""
    with glm_edge.make_context("glm-edge", [verb, *arguments]) as context:
        context.default_map = configured(glm_edge, verb)
        command = glm_edge.get_command(context, verb)
        assert command is not None
        with command.make_context(verb, list(arguments), parent=context) as inner:
            return dict(inner.params)


def test_an_option_goes_before_the_environment_that_before_the_file_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert seen("serve")["port"] == 8000
    write("[serve]\nport = 8001\n")
    assert seen("serve")["port"] == 8001
    monkeypatch.setenv("GLM_EDGE_SERVE_PORT", "8002")
    assert seen("serve")["port"] == 8002
    assert seen("serve", "--port", "8003")["port"] == 8003


def test_a_setting_of_the_file_reaches_the_verb() -> None:
    write('model = "gone"\n')
    for verb in ("chat", "serve", "tokenize"):
        error = call(verb).exception
        assert isinstance(error, StorageError)
        assert str(error).startswith("gone: there is no such file, and no model of this name")


def test_keys_before_the_sections_are_for_every_command_and_a_section_goes_first() -> None:
    write('model = "a"\nthreads = 1\ncache = false\n[chat]\nmodel = "~/b.gguf"\n')
    chat, convert = seen("chat"), seen("convert", "x")
    assert (chat["model"], chat["threads"], chat["cache"]) == (Path("~/b.gguf").expanduser(), 1, False)
    assert seen("serve")["model"] == Path("a")
    assert convert["threads"] is None  # of a conversion: another thing
    assert seen("bundle", "x")["models"] == ()


def test_lists_flags_and_commands_of_a_command() -> None:
    write('[serve]\nalias = ["a", "b"]\nallow-host = "c"\nin-process = true\n[service.install]\nport = 9\n')
    serve = seen("serve")
    assert (serve["aliases"], serve["hosts"], serve["in_process"]) == (("a", "b"), ("c",), True)
    assert configured(glm_edge, "service")["service"]["install"]["port"] == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "prot: there is no such key; glm-edge config shows all"),
        ('modle = "x"', "modle: there is no such key; did you mean model?"),
        ("[sreve]", "sreve: there is no such section; did you mean serve?"),
        ("[serve]\nprot = 1", "[serve] prot: there is no such key; did you mean port?"),
        ("[serve]\nmax_wait = 1", "[serve] max_wait: there is no such key; did you mean max-wait?"),
        ("[service.instal]\nport = 1", "[service] instal: there is no such key; did you mean install?"),
        ("[serve]\nport = 70000", "[serve] port: --port takes a whole number from 0 to 65535, not '70000'"),
        ("[serve]\nport = true", "[serve] port takes a text or a number, not True"),
        ("[serve]\nport = [1]", "[serve] port takes a text or a number, not [1]"),
        ("[serve]\nin-process = 1", "[serve] in-process takes true or false, not 1"),
        ("[serve]\nport = 1.5", "[serve] port: --port takes a whole number from 0 to 65535, not '1.5'"),
        ("[serve]\nport = inf", "[serve] port takes no inf"),
        ('[serve]\nmodel = "a\\u0000b"', "[serve] model takes no 'a\\x00b'"),
        ("[serve", "is not TOML: "),
    ],
)
def test_what_no_option_takes_is_exit_3_with_the_files_name_and_the_nearest(text: str, message: str) -> None:
    write(text)
    error = call("serve").exception
    assert isinstance(error, InvalidFileError)
    assert str(error).startswith(f"{config_path()}: {message}")


def test_a_wrong_value_for_another_command_does_not_stop_this_one() -> None:
    write("[serve]\nport = 70000")
    assert call("list").exit_code == 0
    assert isinstance(call("config").exception, type(None))


def test_a_file_that_is_no_text_is_refused() -> None:
    config_path().write_bytes(b"\xff\xfe")
    assert isinstance(call("list").exception, InvalidFileError)


def test_config_prints_a_file_that_may_have_every_option_of_every_verb() -> None:
    write('[chat]\ntop-p = 0.5\nsystem = "你好"\n')
    done = call("config")
    assert done.exit_code == 0, done.output
    assert "\ntop-p = 0.5" in done.stdout
    assert '\nsystem = "你好"' in done.stdout
    sections = dict(all_commands(glm_edge))
    assert {"service.install", "rm", "bench"} < set(sections)
    for name, command in sections.items():
        for key in options_of(command):
            assert f"{key} = " in done.stdout, name
    write(done.stdout)  # it can be read again, as it is and with every example
    assert call("list").exit_code == 0
    write("\n".join(line.removeprefix("# ") if " = " in line else line for line in done.stdout.splitlines()[3:]))
    assert call("list").exit_code == 0


def test_config_tells_a_wrong_value_of_any_command_and_completion_does_not_look() -> None:
    write("[serve]\nport = 70000\n[chat]\ntop-p = 7")
    done = call("config")
    assert (done.exit_code, done.stderr.count("warning: ")) == (0, 2)
    write("[serve")
    assert call("completion", "bash").exit_code == 0


def test_config_says_where_the_file_is() -> None:
    assert call("config", "--path").stdout == f"{config_path()}\n"


def test_use_says_that_a_configured_model_goes_first(tmp_path: Path) -> None:
    write('model = "x"\n')
    assert isinstance(call("use", "y").exception, StorageError)
    assert isinstance(call("rm", "demo").exception, UsageError)
    write('[chat]\nmodel = "x"\n')
    assert call("use", "demo").exit_code == 0


def test_the_version_is_not_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_EDGE_VERSION", "1")
    monkeypatch.setenv("GLM_EDGE_DEBUG", "perhaps")
    assert call("list").stdout.split()[0] == "NAME"
    assert isinstance(glm_edge, click.Group)
