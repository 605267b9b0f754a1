"""`glm-edge chat`: a conversation in the terminal, or one answer to one prompt."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import click

from ..errors import InvalidFileError, RequestError, UsageError
from ..system.address_space import require_addresses
from ..types import LEAST_CTX, Chunk, Engine, EngineConfig, Message, Request, SamplingParams, Stats
from .model import model_option
from .number import Number, ThreadCount, WholeNumber

ADAPTER = "adapter"  # its name in the engine, where one is given
_HELP = "/new starts a new conversation, /exit or Ctrl-D leaves; Ctrl-C stops an answer."


@click.command("chat")
@model_option
@click.option(
    "--prompt", help="Print the answer to this and exit. Stdin, where it is a pipe or a file, goes before it."
)
@click.option("--system", help="Instructions in front of the first question.")
@click.option("--temperature", type=Number(0, 2), default=0.8, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=Number(0, 1), default=0.8, show_default=True, help="1 keeps every token.")
@click.option("--top-k", type=WholeNumber(0), default=0, help="Keeps only the likeliest N tokens; 0 keeps all.")
@click.option(
    "--min-p", type=Number(0, 1), default=0.0, help="Drops what is less likely than this times the likeliest."
)
@click.option("--repetition-penalty", type=Number(0.1, 10), default=1.0, help="Above 1, repeats less.")
@click.option("--seed", type=WholeNumber(0), help="Makes answers repeatable.")
@click.option("--max-tokens", type=WholeNumber(1), help="Longest answer; the context is the limit without it.")
@click.option("--ctx", "n_ctx", type=WholeNumber(LEAST_CTX), help="Tokens of context, prompt and answers together.")
@click.option("--adapter", type=click.Path(path_type=Path), help="An adapter of convert-adapter to answer with.")
@click.option("--threads", type=ThreadCount(), help="Threads that compute.  [default: one for each big core]")
@click.option(
    "--cache/--no-cache", default=True, show_default=True, help="Keep computed prompts on disk, for restarts."
)
def command(
    model: Path | None,
    prompt: str | None,
    system: str | None,
    temperature: float,
    top_p: float,
    top_k: int,
    min_p: float,
    repetition_penalty: float,
    seed: int | None,
    max_tokens: int | None,
    n_ctx: int | None,
    adapter: Path | None,
    threads: int | None,
    cache: bool,
) -> None:
    """Chat with a model in the terminal.

    Answers go to stdout, everything else to stderr. Without a terminal on stdin, all of stdin is one prompt, or the
    text before that of --prompt: cat FILE | glm-edge chat --prompt 'Summarize this.' In a script whose stdin is
    something else, add </dev/null.
    """
    require_addresses()
    from .load import load_engine
    from .model import cache_folder, resolve_model
    from .progress import is_terminal

    path = resolve_model(model)
    if prompt == "-" or not is_terminal(sys.stdin):
        given = _read_stdin()
        prompt = given if prompt in (None, "-") else f"{given.rstrip()}\n\n{prompt}" if given.strip() else prompt
    if prompt is not None and not prompt.strip():
        raise UsageError("the prompt is empty: nothing to answer")
    adapters = () if adapter is None else ((ADAPTER, adapter),)
    config = EngineConfig(path, n_ctx=n_ctx, n_threads=threads, cache_folder=cache_folder(cache), adapters=adapters)
    engine = load_engine(config)
    try:
        sampling = SamplingParams(temperature, top_p, seed, top_k, min_p, repetition_penalty=repetition_penalty)
        talk = Conversation(engine, system, sampling, max_tokens)
        if prompt is not None:
            talk.ask(prompt)
            if talk.interrupted:
                raise KeyboardInterrupt
        else:
            _converse(talk)
    finally:
        engine.close()


class Conversation:
    """A conversation in the terminal: its messages so far; asks the engine and prints the answers."""

    def __init__(self, engine: Engine, system: str | None, sampling: SamplingParams, max_tokens: int | None) -> None:
        self._engine = engine
        self._sampling = sampling
        self._max_tokens = max_tokens
        self._system = (Message("system", system),) if system else ()
        self._messages: tuple[Message, ...] = ()
        self.interrupted = False  # whether Ctrl-C ended the last answer

    def new(self) -> None:
        self._messages = ()

    def ask(self, question: str) -> Stats | None:
        """Print the answer to a question as it comes. Ctrl-C ends it; the printed part stays in the messages."""
        messages = (*self._messages, Message("user", question))
        self.interrupted = False
        adapter = next(iter(self._engine.info.adapters), None)
        request = Request(self._system + messages, self._sampling, self._max_tokens, trim=True, adapter=adapter)
        generation = self._engine.submit(request)
        text = ""
        last: Chunk | None = None
        while True:
            try:
                # a timeout, because a wait without one cannot be interrupted on Windows
                last = chunk = generation.get(timeout=0.2)
                if chunk is None:
                    break
                text += chunk.text
                click.echo(chunk.text, nl=False)
                if chunk.finish_reason is not None:
                    break
            except TimeoutError:
                continue
            except KeyboardInterrupt:
                self.interrupted = True
                generation.cancel()
        click.echo()
        self._messages = (*messages, Message("assistant", text))
        return last.stats if last else None


def _converse(talk: Conversation) -> None:
    """Questions from the terminal until its end."""
    if importlib.util.find_spec("readline"):
        importlib.import_module("readline")  # gives input() line editing and history
    click.echo(_HELP, err=True)
    while True:
        try:
            question = input("\n问> ").strip()
        except EOFError:
            click.echo(err=True)
            return
        except KeyboardInterrupt:  # drops a half-typed line; the program goes on
            click.echo(err=True)
            continue
        if question in {"/exit", "/quit"}:
            return
        if question == "/new":
            talk.new()
        elif question.startswith("/"):
            click.echo(_HELP, err=True)
        elif question:
            try:
                stats = talk.ask(question)
            except RequestError as error:
                click.echo(f"error: {error}", err=True)
                continue
            except KeyboardInterrupt:  # before its first token, or a second one
                click.echo(err=True)
                continue
            if stats is not None:
                click.secho(_figures(stats), err=True, dim=True)
            if stats is not None and stats.trimmed_rounds:
                click.echo(f"(the oldest {stats.trimmed_rounds} rounds no longer fit and were left out)", err=True)


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode() if sys.stdin is not None else ""
    except UnicodeDecodeError as error:
        raise InvalidFileError(f"stdin: is not UTF-8 at byte {error.start}") from None


def _figures(stats: Stats) -> str:
    """One line about an answer's cost."""
    return (
        f"{stats.prompt_tokens} prompt tokens in {stats.prefill_s:.1f} s, "
        f"{stats.completion_tokens} new ones at {stats.decode_rate:.1f} tokens/s"
    )
