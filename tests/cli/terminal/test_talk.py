"""The chat's commands, without a terminal: what each does to the conversation, and what is no command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_edge.cli.chat import command, settings
from glm_edge.cli.terminal.conversation import Conversation
from glm_edge.cli.terminal.history import MOST, add_to_history, read_history
from glm_edge.cli.terminal.input_line import Cancelled
from glm_edge.cli.terminal.talk import COMMANDS, Talk
from glm_edge.types import SamplingParams
from support.engines.fake_engine import FakeEngine


class Chat:
    """A chat whose inputs are given; `offered` is what stood in the line at each."""

    def __init__(self, *inputs: str | Exception, system: str | None = None, max_tokens: int | None = None) -> None:
        self.engine = FakeEngine(lambda request: [f"<{request.messages[-1].content}>"])
        self.conversation = Conversation(self.engine, system, SamplingParams(), max_tokens)
        self.talk = Talk(self.conversation, settings(command))
        self.offered: list[str] = []
        self._inputs: Iterator[str | Exception] = iter([*inputs, EOFError()])
        self.talk.run(self._read)
        self.engine.close()

    def _read(self, text: str = "") -> str:
        self.offered.append(text)
        one = next(self._inputs)
        if isinstance(one, Exception):
            raise one
        return one

    @property
    def said(self) -> list[str]:
        return [message.content for message in self.conversation.messages]


def test_what_is_no_command_is_text() -> None:
    assert Chat("/usr/bin is a folder", "/", "/newer", "/new\nline").said == [
        *("/usr/bin is a folder", "</usr/bin is a folder>", "/", "</>", "/newer", "</newer>", "/new\nline"),
        "</new\nline>",
    ]


def test_a_command_that_takes_nothing_is_text_with_more_behind_it() -> None:
    said = [text for text in Chat("/new idea", "/exit now", "/edit it", "/regen please").said if text[0] != "<"]
    assert said == ["/new idea", "/exit now", "/edit it", "/regen please"]


@pytest.mark.parametrize("command", ["/save", "/load"])
def test_a_home_that_nobody_has_is_a_folder_that_is_not_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Chat("a", f"{command} ~nobody-has-this/x", "b").said == ["a", "<a>", "b", "<b>"]
    assert "error: ~nobody-has-this/x: " in capsys.readouterr().err


def test_set_off_takes_a_seed_and_a_length_away() -> None:
    chat = Chat("/set seed 7", "/set max-tokens 9", "a", "/set seed off", "/set max-tokens off", "b")
    assert [(request.sampling.seed, request.max_tokens) for request in chat.engine.requests] == [(7, 9), (None, None)]


def test_new_begins_a_conversation_and_keeps_the_instructions() -> None:
    chat = Chat("a", "/new", "b", system="Be brief.")
    assert chat.said == ["b", "<b>"]
    assert [message.content for message in chat.engine.requests[-1].messages] == ["Be brief.", "b"]


def test_regen_asks_the_last_question_again() -> None:
    chat = Chat("/regen", "a", "b", "/regen")
    assert chat.said == ["a", "<a>", "b", "<b>"]
    assert [len(request.messages) for request in chat.engine.requests] == [1, 3, 3]


def test_edit_offers_the_last_question_and_replaces_it_when_it_is_sent() -> None:
    chat = Chat("a", "b", "/edit", "c")
    assert chat.offered == ["", "", "", "b", ""]
    assert chat.said == ["a", "<a>", "c", "<c>"]


@pytest.mark.parametrize("instead", [Cancelled(True), "/help", ""])
def test_an_edit_that_is_given_up_changes_nothing(instead: str | Exception) -> None:
    assert Chat("a", "/edit", instead, "b").said == ["a", "<a>", "b", "<b>"]


def test_system_sets_shows_and_removes_instructions(capsys: pytest.CaptureFixture[str]) -> None:
    chat = Chat("/system", "/system Be brief.", "a", "/system", "/system off", "b")
    assert [request.messages[0].role for request in chat.engine.requests] == ["system", "user"]
    assert [line for line in capsys.readouterr().err.splitlines() if "instructions" in line or "brief" in line] == [
        *("there are no instructions", "system: Be brief.", "system: Be brief.", "there are no instructions")
    ]


def test_set_takes_the_options_with_their_limits(capsys: pytest.CaptureFixture[str]) -> None:
    chat = Chat("/set temperature 0", "/set max-tokens 7", "/set seed 3", "/set top-p 2", "/set heat 1", "a", "/set")
    request = chat.engine.requests[0]
    assert (request.sampling.temperature, request.sampling.seed, request.max_tokens) == (0, 3, 7)
    said = capsys.readouterr().err
    assert "error: --top-p takes a number from 0 to 1, not '2'" in said
    assert "there is no option heat; there are temperature, top-p" in said
    assert "repetition-penalty 1.0" in said


def test_a_conversation_is_saved_and_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "话.json"
    Chat("你好", f"/save {file}", f"/save {file}", system="简短")
    assert json.loads(file.read_text("utf-8"))["messages"][1] == {"role": "user", "content": "你好"}
    chat = Chat("x", f"/load {file}", "b")
    assert chat.said == ["你好", "<你好>", "b", "<b>"]
    assert chat.engine.requests[-1].messages[0].content == "简短"
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"notes", b"[]", b'{"messages": [{"role": "user", "content": "a"}]}'])
def test_save_never_replaces_another_file_and_load_refuses_it(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    chat = Chat("a", f"/save {file}", f"/load {file}", f"/load {tmp_path / 'none'}", f"/save {tmp_path}")
    assert file.read_bytes() == content
    assert chat.said == ["a", "<a>"]
    assert capsys.readouterr().err.count(f"error: {tmp_path}") == 4


def test_a_refused_question_leaves_the_conversation_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    chat = Chat("a", "x" * 10_000, "b")
    assert chat.said == ["a", "<a>", "b", "<b>"]
    assert "error: this model's maximum context length" in capsys.readouterr().err


def test_ctrl_c_twice_leaves_but_not_when_the_second_clears_a_text() -> None:
    assert Chat("a", Cancelled(False), Cancelled(False), "b").said == ["a", "<a>"]
    assert Chat("a", Cancelled(True), Cancelled(True), "b").said == ["a", "<a>", "b", "<b>"]


def test_completion_knows_commands_options_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talk.json").touch()
    (tmp_path / "talks").mkdir()
    talk = Chat().talk
    assert list(talk.complete("/s")) == ["/system", "/set", "/save"]
    assert list(talk.complete("/set top")) == ["/set top-p ", "/set top-k "]
    assert list(talk.complete("/load ta")) == ["/load talk.json", "/load talks/"]
    assert list(talk.complete("hello")) == []
    assert list(talk.complete("")) == []
    assert {"/help", "/new", "/regen", "/edit", "/system", "/set", "/save", "/load", "/exit"} == set(COMMANDS)


def test_history_is_bounded_and_survives_a_broken_file(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_text("".join(f'"{number}"\n' for number in range(MOST + 5)) + "broken\n[1]\n")
    add_to_history(file, "new")
    kept = read_history(file)
    assert (len(kept), kept[-1]) == (MOST, "new")
    add_to_history(file, "x" * (1 << 20))
    assert sum(map(len, read_history(file))) < 1 << 18
    add_to_history(tmp_path / "history" / "no folder", "lost")  # no error
