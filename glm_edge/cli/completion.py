"""`glm-edge completion`: what makes a shell complete commands, options and models' names. click writes it."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .number import OneOf

VARIABLE = "_GLM_EDGE_COMPLETE"  # by which the shell asks; `main` looks for it


@click.command("completion")
@click.argument("shell", type=OneOf(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print what makes SHELL (bash, zsh or fish) complete commands, options and models' names.

    \b
    bash:  echo 'eval "$(glm-edge completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(glm-edge completion zsh)"' >> ~/.zshrc, below compinit
    fish:  glm-edge completion fish > ~/.config/fish/completions/glm-edge.fish
    """
    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(context.find_root().command, {}, "glm-edge", VARIABLE).source())
