"""The input line of a chat: several lines, pasted text, history, completion. The one place that imports prompt_toolkit.

Enter sends, Alt-Enter begins another line, text that is pasted arrives whole. Without a terminal on stderr, and on one
that cannot be drawn on, it is a plain line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .history import add_to_history, read_history

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

PROMPT = "问> "


class Cancelled(Exception):
    """Ctrl-C at the input line. `had_text`: something was typed, which is gone now."""

    def __init__(self, had_text: bool) -> None:
        super().__init__()
        self.had_text = had_text


class InputLine(Protocol):
    """Asks for one input. Raises EOFError at Ctrl-D and Cancelled at Ctrl-C."""

    def __call__(self, text: str = "") -> str:
        """`text` stands in the line at first, to be edited."""


def input_line(complete: Callable[[str], Iterable[str]], history: Path | None) -> InputLine:
    """The best input line that this terminal can have.

    Args:
        complete: the inputs that a beginning may become.
        history: the file of earlier questions; None: they are not kept.
    """
    drawable = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"
    return _drawn(complete, history) if drawable else _plain


def _plain(text: str = "") -> str:
    if text:
        print(text, file=sys.stderr)
    try:
        return input(f"\n{PROMPT}")
    except KeyboardInterrupt:
        raise Cancelled(False) from None


def _drawn(complete: Callable[[str], Iterable[str]], history: Path | None) -> InputLine:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.history import History, InMemoryHistory
    from prompt_toolkit.output import create_output

    class Kept(History):
        """The file of earlier questions."""

        def load_history_strings(self) -> Iterable[str]:
            return reversed(read_history(history) if history is not None else [])

        def store_string(self, string: str) -> None:
            if history is not None and not string.startswith(" "):  # as shells do
                add_to_history(history, string)

    class Words(Completer):
        """Commands and what follows them."""

        def get_completions(self, document: Any, complete_event: Any) -> Iterable[Completion]:
            typed = document.text_before_cursor
            return (Completion(word, start_position=-len(typed)) for word in complete(typed))

    had_text: list[bool] = []
    session: PromptSession[str] = PromptSession(
        multiline=True,
        history=Kept() if history is not None else InMemoryHistory(),
        completer=Words(),
        complete_while_typing=False,
        key_bindings=_keys(had_text),
        output=create_output(stdout=sys.stderr),  # answers alone go to stdout
        prompt_continuation=" " * (len(PROMPT) + 1),
        enable_suspend=True,
    )

    def ask(text: str = "") -> str:
        had_text.clear()
        try:
            return session.prompt(f"\n{PROMPT}", default=text, handle_sigint=False)
        except KeyboardInterrupt:
            raise Cancelled(any(had_text)) from None

    return ask


def _keys(had_text: list[bool]) -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def another_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def cancel(event: KeyPressEvent) -> None:
        had_text.append(bool(event.current_buffer.text))
        event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return keys
