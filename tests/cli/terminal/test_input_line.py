"""The chat in a real terminal: keys, several lines, pasted text, history, Ctrl-C; with a fake engine that repeats."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.paths import PROJECT
from support.terminal import Terminal, terminal

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no such terminals")

PROMPT = "问>"
ALT_ENTER, CTRL_C, CTRL_D, CTRL_U, UP, TAB = "\x1b\r", "\x03", "\x04", "\x15", "\x1b[A", "\t"


@contextmanager
def chat(*arguments: str) -> Iterator[Terminal]:
    program = [sys.executable, "-m", "support.engines.chat_fake_engine", *arguments]
    with terminal(*program, PYTHONPATH=str(PROJECT / "tests")) as shown:
        shown.said(PROMPT)
        yield shown


def test_lines_pasted_text_and_editing_arrive_whole_and_are_remembered(tmp_path: Path) -> None:
    history = tmp_path / "new" / "history"
    with chat(str(history)) as shown:
        shown.type("你好，世界\r")
        shown.said("<你好，世界>")
        shown.said(PROMPT)
        shown.type(f"one{ALT_ENTER}two\r")
        shown.said("<one|two>")
        shown.said(PROMPT)
        shown.type("\x1b[200~pasted\n/new\r\nthird line\x1b[201~\r")
        shown.said("<pasted|/new|third line>")
        shown.said(PROMPT)
        shown.type("/edit\r")
        shown.said("third line")
        shown.type(f"!{CTRL_U}changed\r")
        shown.said("<pasted|/new|changed>")
        shown.said(PROMPT)
        shown.type(CTRL_D)
        assert shown.ends() == 0
    assert history.stat().st_mode & 0o777 == 0o600
    assert history.parent.stat().st_mode & 0o777 == 0o700
    kept = [json.loads(line) for line in history.read_text("utf-8").splitlines()]
    assert kept == ["你好，世界", "one\ntwo", "pasted\n/new\nthird line", "/edit", "pasted\n/new\nchanged"]
    history.write_text('"你好，世界"\n')
    with chat(str(history)) as shown:
        shown.type(UP)
        shown.said("你好，世界")
        shown.type("\r")
        shown.said("<你好，世界>")
        shown.said(PROMPT)
        shown.type("/he" + TAB)
        shown.said("lp")
        shown.type("\r")
        shown.said("another answer to the last question")
        shown.said(PROMPT)
        shown.type("/exit\r")
        assert shown.ends() == 0


def test_ctrl_c_ends_an_answer_then_clears_the_line_and_twice_leaves() -> None:
    with chat() as shown:
        shown.type("endless\r")
        shown.said("it begins")
        shown.type(CTRL_C)
        shown.said(PROMPT)
        shown.type("half a ques")
        shown.said("ques")
        shown.type(CTRL_C)
        shown.said("(Ctrl-C again or Ctrl-D leaves)")
        shown.said(PROMPT)
        shown.type("whole\r")
        assert "half" not in shown.said("<whole>")
        shown.said(PROMPT)
        shown.type(CTRL_C)
        shown.said("(Ctrl-C again or Ctrl-D leaves)")  # the prompt before it may be drawn once more
        shown.said(PROMPT)
        shown.type(CTRL_C)
        assert shown.ends() == 0


def test_a_real_model_chats_in_a_terminal(tiny_q4_0: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "glm_edge", "chat", "--model", str(tiny_q4_0), "--no-cache", "--max-tokens", "4"]
    with terminal(*program, XDG_DATA_HOME=str(tmp_path)) as shown:
        shown.said(PROMPT)
        shown.type("你好\r")
        shown.said("(cut at --max-tokens 4)")
        shown.said(PROMPT)
        shown.type(CTRL_D)
        assert shown.ends() == 0
    assert list(tmp_path.iterdir()) == []  # with --no-cache no question is kept


def test_a_terminal_that_cannot_be_drawn_on_gets_a_plain_line() -> None:
    program = [sys.executable, "-m", "support.engines.chat_fake_engine"]
    with terminal(*program, PYTHONPATH=str(PROJECT / "tests"), TERM="dumb") as shown:
        shown.said(PROMPT)
        shown.type("你好\r")
        shown.said("<你好>")
        shown.said(PROMPT)
        shown.type(CTRL_D)
        assert shown.ends() == 0
