"""`python -m convert CHECKPOINT`: the same command from a checkout, without an install."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click

from glm_edge.errors import GlmEdgeError

from .cli import command


def main() -> int:
    """Exit code; every error is one line on stderr."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        command.main(prog_name="python -m convert", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        return error.exit_code
    except GlmEdgeError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except click.exceptions.Abort:  # Ctrl-C, after the temporary file has gone
        click.echo("error: interrupted", err=True)
        return 130
    return 0


def _terminate(signum: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that the temporary file goes."""
    click.echo("error: terminated", err=True)
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
