"""`glm-edge service`: a model that is served from the machine's start on, by systemd."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import StorageError, UsageError
from .model import model_option
from .number import WholeNumber
from .progress import is_terminal

if TYPE_CHECKING:
    from ..tools.service.install import Step, UnitLocation


def _location_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say whose service is meant."""
    for option in (
        click.option(
            "--root",
            type=click.Path(path_type=Path, file_okay=False),
            default="/",
            help="Work below DIR and call no systemd, as for an image; --model is the file's name in it.",
            metavar="DIR",
        ),
        click.option("--user", is_flag=True, help="Your own service, without root, instead of the machine's."),
    ):
        command = option(command)
    return command


_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group("service")
def command() -> None:
    """Serve a model from the machine's start on, by systemd. Says what it does before it does it."""


@command.command("install")
@model_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Beyond loopback it needs --api-key-file.")
@click.option("--port", type=WholeNumber(1, 65535), default=8000, show_default=True)
@click.option("--api-key-file", type=click.Path(path_type=Path), help="A file with one key a line, of mode 0600.")
@_location_options
@_yes
def install(
    model: Path | None, host: str, port: int, api_key_file: Path | None, user: bool, root: Path, yes: bool
) -> None:
    """Install and start it, or change what it serves."""
    from ..api.access.keys import read_key_file
    from ..api.access.policy import is_loopback
    from ..system.default_model import read_default
    from ..tools.service.install import install_steps
    from ..tools.service.unit import Service
    from .model import resolve_model
    from .names import find_model

    loopback = host == "localhost" or is_loopback(host)
    if not loopback and api_key_file is None:
        raise UsageError(f"--host {host} can be reached from other machines: give keys with --api-key-file")
    location = _location(user, root)
    if model is not None and location.live:
        model = find_model(model)
    elif location.live and (default := read_default()) is not None:
        model = default.model  # named, because the service has another config folder
    file = None if model is None else location.name_of(model)
    if file is not None:
        path = location.file_of(file)
        if not location.live and not path.exists():
            raise StorageError(f"{path}: there is no such file; with --root, --model names a file below it")
        resolve_model(path)
    key_file = None if api_key_file is None else location.name_of(api_key_file)
    if key_file is not None and location.live:  # an image may get its keys later
        read_key_file(key_file)
    service = Service(Path(sys.executable).absolute(), file, host, port, key_file, loopback, user)
    if not _carry_out(install_steps(location, service), yes=yes):
        return
    name = "the demo model" if file is None else file.name
    click.echo(f"installed; it serves {name} at http://{host}:{port} once the model is loaded")
    if location.live:
        click.echo(f"watch it with: {_journal(location)}")


@command.command("remove")
@_location_options
@_yes
def remove(user: bool, root: Path, yes: bool) -> None:
    """Stop it and remove it. Models, caches and settings stay."""
    from ..tools.service.install import remove_steps

    steps = remove_steps(_location(user, root))
    if not steps:
        click.echo("no service is installed")
    elif _carry_out(steps, yes=yes):
        click.echo("removed; models, caches and settings are where they were")


@command.command("status")
@_location_options
@click.pass_context
def status(context: click.Context, user: bool, root: Path) -> None:
    """Whether it is installed, and runs. Exits with 1 where it does not run."""
    from ..tools.service.install import state_of

    location = _location(user, root)
    if not location.unit.exists():
        click.echo("no service is installed; glm-edge service install installs one")
        context.exit(1)
    state = state_of(location)
    click.echo(f"{location.unit}: {state or 'installed, no systemd runs here'}")
    if location.live and state != "active":
        click.echo(f"see why with: {_journal(location)}")
    context.exit(0 if state == "active" else 1)


def _location(user: bool, root: Path) -> UnitLocation:
    from ..tools.service.install import UnitLocation

    return UnitLocation(Path(os.path.abspath(root)), user, Path.home())


def _journal(location: UnitLocation) -> str:
    return f"journalctl {'--user ' if location.user else ''}-u glm-edge -f"


def _carry_out(steps: list[Step], *, yes: bool) -> bool:
    """Say the steps, ask where somebody sits there, take them. False: the answer was no."""
    for number, step in enumerate(steps, 1):
        click.echo(f"{number}. {step.text}")
    if not yes:
        if not is_terminal(sys.stdin):
            raise UsageError("nobody is there to say yes; repeat with --yes")
        if not click.confirm("Do this?", default=True):
            click.echo("nothing was done")
            return False
    for step in steps:
        step.do()
    return True
