"""`glm-edge chat`: a conversation in the terminal, or one answer to one prompt."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from ..errors import InvalidFileError, UsageError
from ..system.address_space import require_addresses
from ..types import LEAST_CTX, EngineConfig, RuntimeName, SamplingParams
from .model import huge_pages_option, model_option, runtime_option, tune_option
from .number import Number, ThreadCount, WholeNumber

ADAPTER = "adapter"  # its name in the engine, where one is given
_SETTINGS = ("temperature", "top-p", "top-k", "min-p", "repetition-penalty", "seed", "max-tokens")  # what /set takes
_MAY_BE_OFF = ("seed", "max_tokens")  # which have no value where nobody sets one


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
@runtime_option
@huge_pages_option
@tune_option
@click.option(
    "--cache/--no-cache", default=True, show_default=True, help="Keep computed prompts on disk, for restarts."
)
@click.pass_context
def command(
    context: click.Context,
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
    runtime: RuntimeName | None,
    huge_pages: bool,
    tune: bool,
    cache: bool,
) -> None:
    """Chat with a model in the terminal.

    Answers go to stdout, everything else to stderr. Without a terminal on stdin, all of stdin is one prompt, or the
    text before that of --prompt: cat FILE | glm-edge chat --prompt 'Summarize this.' In a script whose stdin is
    something else, add </dev/null. Questions are kept for the next session, not those after a space, none with
    --no-cache.
    """
    require_addresses()
    from .load import load_engine
    from .model import cache_folder, resolve_model
    from .progress import is_terminal
    from .terminal.conversation import Conversation
    from .terminal.history import history_path
    from .terminal.input_line import input_line
    from .terminal.talk import Talk, answer

    path = resolve_model(model)
    if prompt == "-" or not is_terminal(sys.stdin):
        given = _read_stdin()
        prompt = given if prompt in (None, "-") else f"{given.rstrip()}\n\n{prompt}" if given.strip() else prompt
    for option, text in (("--prompt", prompt), ("--system", system)):
        if text is not None and not _is_text(text):
            raise UsageError(f"{option}: is not UTF-8")
    if prompt is not None and not prompt.strip():
        raise UsageError("the prompt is empty: nothing to answer")
    config = EngineConfig(
        path,
        runtime=runtime,
        huge_pages=huge_pages,
        n_ctx=n_ctx,
        n_threads=threads,
        cache_folder=cache_folder(cache),
        adapters=() if adapter is None else ((ADAPTER, adapter),),
    )
    engine = load_engine(config, tune=tune)
    try:
        sampling = SamplingParams(temperature, top_p, seed, top_k, min_p, repetition_penalty=repetition_penalty)
        conversation = Conversation(engine, system, sampling, max_tokens)
        if prompt is not None:
            answer(conversation, prompt, quiet=True)
            if conversation.interrupted:
                raise KeyboardInterrupt
        else:
            talk = Talk(conversation, settings(context.command))
            talk.run(input_line(talk.complete, history_path() if cache else None))
    finally:
        engine.close()


def settings(command: click.Command) -> dict[str, tuple[str, Callable[[str], object]]]:
    """What /set takes: the same options, with the same limits."""
    options = {param.opts[0].removeprefix("--"): param for param in command.params}
    return {name: (str(options[name].name), partial(_value, options[name])) for name in _SETTINGS}


def _value(option: click.Parameter, text: str) -> object:
    if text == "off" and option.name in _MAY_BE_OFF:
        return None
    return option.type.convert(text, option, None)


def _is_text(argument: str) -> bool:
    """Whether it is a text: Python keeps bytes that are not UTF-8 as half surrogate pairs."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode() if sys.stdin is not None else ""
    except UnicodeDecodeError as error:
        raise InvalidFileError(f"stdin: is not UTF-8 at byte {error.start}") from None
