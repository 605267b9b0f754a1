"""The loop of a chat in the terminal: reads inputs, obeys commands, shows answers.

Answers go to stdout, all else to stderr. Not here: how a line is typed (`input_line.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click

from ...errors import GlmEdgeError, RequestError
from ...types import Chunk, Stats
from .conversation import Conversation
from .input_line import Cancelled, InputLine
from .markdown import Colours, harmless, has_colours

COMMANDS = {
    "/help": "what there is",
    "/new": "a new conversation",
    "/regen": "another answer to the last question",
    "/edit": "change the last question and ask again",
    "/system": "[TEXT | off] shows or sets the instructions in front of the first question",
    "/set": "[OPTION VALUE] shows or sets temperature, max-tokens and the like; seed and max-tokens take off",
    "/save": "FILE writes the conversation, as JSON",
    "/load": "FILE goes on with a saved one",
    "/exit": "leaves, and so does Ctrl-D",
}
_OTHER_NAMES = {"/quit": "/exit"}
_WITH_VALUE = ("/system", "/set", "/save", "/load")  # the others are commands only where they stand alone
HINT = (
    "/help shows the commands; Alt-Enter begins another line; Ctrl-C stops an answer or clears the line; Ctrl-D or"
    " Ctrl-C twice leaves."
)


class Talk:
    """One chat in the terminal.

    Args:
        settings: what /set takes: an option's name, its field, and a function that turns a text into its value, which
            raises click.UsageError.
    """

    def __init__(self, conversation: Conversation, settings: Mapping[str, tuple[str, Callable[[str], object]]]) -> None:
        self._conversation = conversation
        self._settings = settings

    def run(self, read: InputLine) -> None:
        """Until the user leaves."""
        say(HINT)
        edited: str | None = None  # the last question, which is being changed
        leaving = False  # whether the input before was Ctrl-C
        while True:
            try:
                text = read(edited or "").strip()
            except EOFError:
                say()
                return
            except Cancelled as cancelled:
                if leaving and not cancelled.had_text:
                    return
                edited, leaving = None, True
                say("(Ctrl-C again or Ctrl-D leaves)")
                continue
            leaving = False
            word, _, rest = text.partition(" ")
            word = _OTHER_NAMES.get(word, word)
            command = word if word in COMMANDS and (word in _WITH_VALUE or not rest.strip()) else None
            if command == "/exit":
                return
            if command == "/edit":
                edited = self._conversation.last_question
                if edited is None:
                    say("there is no question yet")
                continue
            try:
                if command is not None:
                    self._obey(command, rest.strip())
                elif text:
                    self._ask(text, again=edited is not None)
            except (RequestError, click.UsageError) as error:
                say(f"error: {error.format_message() if isinstance(error, click.UsageError) else error}")
            except GlmEdgeError as error:
                if command is None:  # the engine's: it cannot go on
                    raise
                say(f"error: {error}")
            except KeyboardInterrupt:  # before an answer's first token, or a second one
                say()
            edited = None

    def complete(self, typed: str) -> Iterable[str]:
        """The inputs that a beginning may become."""
        word, space, rest = typed.partition(" ")
        if not space:
            return [command for command in COMMANDS if typed and command.startswith(typed)]
        if word == "/set":
            return [f"/set {name} " for name in self._settings if name.startswith(rest)]
        return [f"{word} {path}" for path in _paths(rest)] if word in ("/save", "/load") else []

    def _ask(self, question: str, *, again: bool = False) -> None:
        talk = self._conversation
        before = talk.messages
        if again:
            talk.drop_last()
        try:
            answer(talk, question)
        except BaseException:
            talk.messages = before
            raise

    def _obey(self, word: str, rest: str) -> None:
        talk = self._conversation
        if word == "/help":
            say("\n".join(f"{name:<8} {about}" for name, about in COMMANDS.items()))
        elif word == "/new":
            talk.messages = ()
            say("a new conversation")
        elif word == "/regen":
            if talk.last_question is None:
                say("there is no question yet")
            else:
                self._ask(talk.last_question, again=True)
        elif word == "/system":
            if rest:
                talk.system = "" if rest == "off" else rest
            say(f"system: {harmless(talk.system)}" if talk.system else "there are no instructions")
        elif word == "/set":
            self._set(rest)
        elif not rest:
            say(f"{word} needs a file")
        elif word == "/save":
            talk.save(Path(os.path.expanduser(rest)))
            say(f"saved in {rest}")
        else:
            talk.load(Path(os.path.expanduser(rest)))
            say(f"{talk.rounds} rounds; the last question: {harmless(talk.last_question or '')[:200]}")

    def _set(self, rest: str) -> None:
        talk = self._conversation
        name, _, value = rest.partition(" ")
        name = name.removeprefix("--").replace("_", "-")
        if name and name not in self._settings:
            say(f"there is no option {name}; there are {', '.join(self._settings)}")
            return
        if value.strip():
            field, read = self._settings[name]
            talk.set(field, read(value.strip()))
        for shown, (field, _) in self._settings.items():
            if name in ("", shown):
                found = talk.max_tokens if field == "max_tokens" else getattr(talk.sampling, field)
                say(f"{shown} {'not set' if found is None else found}")


def answer(talk: Conversation, question: str, *, quiet: bool = False) -> None:
    """Show the answer to a question as it comes, and then what it cost.

    Args:
        quiet: only say what the reader must know: that the answer was cut.
    """
    terminal = sys.stdout is not None and sys.stdout.isatty()
    colours = Colours() if terminal and has_colours() else None

    def write(text: str) -> None:
        click.echo(colours.feed(text) if colours else harmless(text) if terminal else text, nl=False, color=True)

    try:
        last = talk.ask(question, write)
    finally:
        click.echo(colours.end() if colours else "", color=True)
    if last is None or last.stats is None:
        return
    if last.finish_reason == "length" and not talk.interrupted:
        say(_cut(last, last.stats, talk.max_tokens))
    if not quiet:
        say(_figures(last.stats))
        if last.stats.trimmed_rounds:
            say(f"(the oldest {last.stats.trimmed_rounds} rounds no longer fit and were left out)")


def say(text: str = "") -> None:
    """A line on stderr, dim where that is a terminal with colours."""
    dim = text and has_colours()
    click.secho(text, err=True, dim=True) if dim else click.echo(text, err=True)


def _cut(last: Chunk, stats: Stats, max_tokens: int | None) -> str:
    if max_tokens is not None and stats.completion_tokens >= max_tokens:
        return f"(cut at --max-tokens {max_tokens})"
    return "(cut: the context is full)"


def _figures(stats: Stats) -> str:
    """One line about an answer's cost."""
    return (
        f"{stats.prompt_tokens} prompt tokens in {stats.prefill_s:.1f} s, "
        f"{stats.completion_tokens} new ones at {stats.decode_rate:.1f} tokens/s"
    )


def _paths(typed: str) -> list[str]:
    """Files and folders that begin so."""
    folder, name = os.path.split(os.path.expanduser(typed))
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError:
        return []
    found = [os.path.join(os.path.split(typed)[0], one) for one in names if one.startswith(name)]
    return [f"{path}{os.sep}" if os.path.isdir(os.path.expanduser(path)) else path for path in found]
