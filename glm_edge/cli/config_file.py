"""The configuration file: config.toml in the user's config folder, with every option of every command.

An option of the command line goes first, then the environment, then this file, then what `bench --tune` found. The file
is checked whole before a command runs: what no command knows is refused, with the nearest name.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
import platformdirs

from ..errors import InvalidFileError
from ..system.safe_open import read_file
from .number import ThreadCount

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BYTES = 1 << 20
_NOT_HERE = {"help", "debug", "version"}
SHARED = ("model", "threads", "cache")  # keys before the first section, for every command with such an option


def config_path() -> Path:
    """The file of this user; it need not be there."""
    return Path(platformdirs.user_config_dir("glm-edge", appauthor=False)) / "config.toml"


def options_of(command: click.Command) -> dict[str, click.Option]:
    """The options that a command's section may set, by their keys: the long name without its dashes."""
    found = {}
    for param in command.params:
        if isinstance(param, click.Option):
            key = next(name for name in param.opts if name.startswith("--")).removeprefix("--")
            if key not in _NOT_HERE:
                found[key] = param
    return found


def is_shared(key: str, option: click.Option) -> bool:
    """Whether a key before the first section sets this option: not the threads of a conversion, nor many models."""
    return key in SHARED and not option.multiple and (key != "threads" or isinstance(option.type, ThreadCount))


def read_config() -> dict[str, Any]:
    """The file's content; empty where there is none. Raises InvalidFileError for what is no TOML, StorageError."""
    path = config_path()
    if not os.path.lexists(path):
        return {}
    try:
        return tomllib.loads(read_file(path, _BYTES).decode())
    except UnicodeDecodeError as error:
        raise InvalidFileError(f"{path}: is not UTF-8 at byte {error.start}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidFileError(f"{path}: is not TOML: {error}") from None


def configured(root: click.Group, verb: str | None, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The file's settings as click's default_map. Raises InvalidFileError for a key or value that no option has.

    Args:
        verb: the command that runs: its values are converted, so that a wrong one is told with the file's name.
        content: the file's, where it was read already.
    """
    content = read_config() if content is None else content
    context = click.Context(root)
    verbs = root.list_commands(context)
    sections = {key: value for key, value in content.items() if isinstance(value, dict)}
    shared = {key: value for key, value in content.items() if key not in sections}
    _refuse_unknown(sections, verbs, "section")
    _refuse_unknown(shared, SHARED, "key")
    found: dict[str, Any] = {}
    for name in dict.fromkeys([*sections, *([verb] if verb is not None else [])]):
        command = root.get_command(context, name)
        if command is not None:
            found[name] = _section(command, name, shared, sections.get(name, {}), convert=name == verb)
    return found


def _section(
    command: click.Command, where: str, shared: Mapping[str, Any], values: Mapping[str, Any], *, convert: bool
) -> dict[str, Any]:
    """The settings of a command, and of those below it, by the names of their parameters."""
    options = options_of(command)
    inner = command.commands if isinstance(command, click.Group) else {}
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key in inner:
            continue
        _refuse_unknown([key], [*options, *inner], "key", where)
        found[str(options[key].name)] = _value(command, options[key], f"[{where}] {key}", value, convert=convert)
    for key, value in shared.items():
        if key in options and is_shared(key, options[key]):
            name = str(options[key].name)
            found.setdefault(name, _value(command, options[key], key, value, convert=convert))
    for name, part in inner.items():
        found[name] = _section(part, f"{where}.{name}", shared, values.get(name, {}), convert=convert)
    return found


def _value(command: click.Command, option: click.Option, where: str, value: Any, *, convert: bool) -> Any:
    """The option's value. Raises InvalidFileError where the option takes no such value."""
    values = value if option.multiple and isinstance(value, list) else [value]
    takes = "true or false" if option.is_flag else "a text or a number"
    for one in values:
        if isinstance(one, bool) != option.is_flag or not isinstance(one, (str, int, float)):
            raise InvalidFileError(f"{config_path()}: {where} takes {takes}, not {one!r}")
        if (isinstance(one, float) and not math.isfinite(one)) or (isinstance(one, str) and "\0" in one):
            raise InvalidFileError(f"{config_path()}: {where} takes no {one!r}")
    if isinstance(option.type, click.Path):
        values = [os.path.expanduser(str(one)) for one in values]
    if not convert or option.is_flag:
        return values if option.multiple else values[0]
    try:
        return option.type_cast_value(click.Context(command), values if option.multiple else values[0])
    except click.UsageError as error:
        raise InvalidFileError(f"{config_path()}: {where}: {error.format_message().rstrip('.')}") from None


def _refuse_unknown(keys: Iterable[str], known: Iterable[str], what: str, where: str = "") -> None:
    known = list(known)
    for key in keys:
        if key not in known:
            near = get_close_matches(key.replace("_", "-"), known, 1)
            hint = f"did you mean {near[0]}?" if near else "glm-edge config shows all"
            place = f"[{where}] " if where else ""
            raise InvalidFileError(f"{config_path()}: {place}{key}: there is no such {what}; {hint}")


def all_commands(root: click.Group) -> Iterator[tuple[str, click.Command]]:
    """Every command with options, and the section that is its."""
    context = click.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((f"{name}.{part}", inner) for part, inner in command.commands.items())
        elif command is not None:
            yield name, command
