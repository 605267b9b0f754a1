"""Run a command: an error becomes one line on stderr and an exit code; SIGTERM unwinds like Ctrl-C.

`glm-edge` and `python -m convert` both use this. click's own runner is not used: it turns a closed pipe into a failure
and prints usage errors in three lines.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TypeVar

import click

from ..errors import GlmEdgeError, OutOfMemoryError, RequestError, StorageError, UsageError

C = TypeVar("C", bound=click.Command)


def with_debug(command: C) -> C:
    """The command with the option --debug, in its help too, and a group's commands with it. `run` acts on it."""
    for part in command.commands.values() if isinstance(command, click.Group) else ():
        with_debug(part)
    if not any(param.name == "debug" for param in command.params):  # called again where a test runs it twice
        command.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                allow_from_autoenv=False,
                help="Show the traceback of an error.",
            )
        )
    return command


def run(command: click.Command, args: Sequence[str], *, prog_name: str) -> int:
    """The exit code of a command. With `--debug` among the arguments an error of ours keeps its traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as under nohup
        signal.signal(signal.SIGINT, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without a character shows another; a file gets UTF-8
            stream.reconfigure(errors="replace", **({} if stream.isatty() else {"encoding": "utf-8"}))
    try:
        with command.make_context(prog_name, list(args)) as context:
            command.invoke(context)
        if sys.stdout is not None:  # closed before the start
            sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except click.exceptions.Exit as end:  # --help and --version
        return end.exit_code
    except click.ClickException as error:
        if error.__class__.__name__ == "NoArgsIsHelpError":
            error.show()
            return error.exit_code
        place = getattr(error, "ctx", None)
        hint = f" (see {place.command_path} --help)" if place is not None else ""
        return _fail(error.format_message().rstrip(".") + hint, error.exit_code)
    except GlmEdgeError as error:
        if "--debug" in args:
            raise
        return _fail(str(error), UsageError.exit_code if isinstance(error, RequestError) else error.exit_code)
    except BrokenPipeError:  # the reader of our output has left, like `| head`: no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except MemoryError:
        return _fail("out of memory; close other programs, or ask for less context", OutOfMemoryError.exit_code)
    except OSError as error:
        if "--debug" in args:
            raise
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}", StorageError.exit_code)
    return 0


def _fail(message: str, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    return code


class _Interrupted(KeyboardInterrupt):
    """Ctrl-C. A subclass, because `python -m` dies of SIGINT at its end if a plain KeyboardInterrupt passed `exec`."""


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise _Interrupted


def _terminate(signum: int, frame: FrameType | None) -> None:
    """Unwind, so that temporary files go, and exit with the signal's own code."""
    click.echo("error: terminated", err=True)
    raise SystemExit(128 + signum)
