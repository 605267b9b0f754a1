"""`glm-edge config`: the configuration file as it is, with all that it could have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from ..errors import InvalidFileError

_HEAD = """\
# {path}{missing}
# An option goes first, then its environment variable (as GLM_EDGE_SERVE_PORT), then this file, then `bench --tune`.
# Without a # in front: what this file sets. Keys before the first section hold for every command that has them."""


@click.command("config")
@click.option("--path", is_flag=True, help="Only print the file's path.")
@click.pass_context
def command(context: click.Context, path: bool) -> None:
    """Show the configuration file, with every key that it may have.

    What is printed is such a file itself: glm-edge config > FILE makes one to start from.
    """
    from .config_file import SHARED, all_commands, config_path, configured, options_of, read_config

    if path:
        click.echo(config_path())
        return
    root = context.find_root().command
    if not isinstance(root, click.Group):
        return
    content = read_config()
    configured(root, None, content)  # refuses what no option has
    for verb in root.list_commands(context):
        try:
            configured(root, verb, content)
        except InvalidFileError as error:  # a value that stops that command alone
            click.echo(f"warning: {error}", err=True)
    missing = "" if content else " (sets nothing yet)"
    click.echo(_HEAD.format(path=config_path(), missing=missing))
    examples = {"model": "NAME", "threads": 4, "cache": True}
    for key in SHARED:
        click.echo(_line(key, content.get(key), examples[key], ""))
    for name, part in all_commands(root):
        if options := options_of(part):
            click.echo(f"\n[{name}]")
            for line in _lines(options, _inner(content, name)):
                click.echo(line)


def _lines(options: Mapping[str, click.Option], values: Mapping[str, Any]) -> Iterator[str]:
    for key, option in options.items():
        example: Any = option.default
        if not isinstance(example, (str, int, float)):
            example = [] if option.multiple else False if option.is_flag else option.make_metavar(_context())
        yield _line(key, values.get(key), example, option.help or "")


def _context() -> click.Context:
    return click.get_current_context()


def _inner(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    for part in name.split("."):
        content = content.get(part, {})
    return content


def _line(key: str, value: Any, example: Any, about: str) -> str:
    text = f"{key} = {_toml(example)}" if value is None else f"{key} = {_toml(value)}"
    return f"{'# ' * (value is None)}{text}{f'  # {about}' if about else ''}"


def _toml(value: Any) -> str:
    """As TOML writes it; its texts, numbers, lists and truth values are those of JSON."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
