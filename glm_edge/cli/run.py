"""Running a command: what it raises becomes one line on stderr and an exit code; SIGTERM unwinds like Ctrl-C.

`glm-edge` and `python -m convert` both go through here.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType

import click

from ..errors import GlmEdgeError


def run(command: click.Command, args: Sequence[str], *, prog_name: str) -> int:
    """The exit code of a command. With `--debug` among the arguments an error of ours keeps its traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        result = command.main(args=list(args), prog_name=prog_name, standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("error: interrupted", err=True)
        return 130
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"see: {error.ctx.command_path} --help", err=True)
        return error.exit_code
    except GlmEdgeError as error:
        if "--debug" in args:
            raise
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def _terminate(signum: int, frame: FrameType | None) -> None:
    """Unwind, so that temporary files go, and exit with the signal's own code."""
    click.echo("error: terminated", err=True)
    raise SystemExit(128 + signum)
