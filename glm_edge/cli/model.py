"""The model file that a command runs: the one given by path or name, the default model, or the demo model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import click
from click.shell_completion import CompletionItem

from ..errors import GlmEdgeError, InvalidFileError, StorageError
from ..types import RuntimeName
from .number import OneOf


def complete_models(context: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What a shell offers for a model: names that begin so, or else files."""
    from .names import DEMO, known_models

    names = dict.fromkeys([*(model.name for model in known_models()), DEMO])
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


model_option = click.option(
    "--model",
    type=click.Path(path_type=Path),
    envvar="GLM_EDGE_MODEL",
    shell_complete=complete_models,
    help="The GGUF file, by path or name.  [default: GLM_EDGE_MODEL, the default model, or else the demo]",
)


def _runtime(context: click.Context, option: click.Parameter, value: str) -> RuntimeName | None:
    return next((name for name in get_args(RuntimeName) if name == value), None)


huge_pages_option = click.option(
    "--huge-pages",
    type=OneOf(["auto", "off"]),
    default="auto",
    show_default=True,
    callback=lambda context, option, value: value == "auto",
    help="Ask Linux for pages of 2 MiB where memory allows: weights are read faster.",
)

tune_option = click.option(
    "--tune/--no-tune",
    default=True,
    show_default=True,
    help="Before the first answers with such a model, find the fastest settings, in 10 s at most; then keep them.",
)

runtime_option = click.option(
    "--runtime",
    type=OneOf(["auto", *get_args(RuntimeName)]),
    default="auto",
    show_default=True,
    callback=_runtime,
    help="llama.cpp, ik_llama.cpp (glm-edge[ik]), or llama.cpp on a GPU (glm-edge runtime --vulkan); auto takes what"
    " bench --tune found to be fastest, else llama.cpp.",
)


def resolve_model(path: Path | None) -> Path:
    """The GGUF file to load: the one given, else the default model, which a line on stderr says, else the demo model.

    Raises InvalidFileError when a folder was given or the default is no path, StorageError when the file is not there,
    UsageError where several models have the name.
    """
    from .names import find_model

    if path is None:
        from ..system.default_model import read_default
        from .demo import demo_model

        default = read_default()
        if default is None:
            return demo_model()
        if not default.model.is_file():
            raise StorageError(
                f"{default.model}: the default model is gone; put it back, name another with --model, or choose another"
                " default: glm-edge use NAME (demo is the demo model)"
            )
        click.echo(f"the default model: {default.model}", err=True)
        return default.model
    path = find_model(path)
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        hint = f"name a GGUF file in it, as {found[0] if found else path / 'NAME.gguf'}"
        if (path / "config.json").exists():
            hint = f"convert it first: glm-edge convert {path}"
        raise InvalidFileError(f"{path}: is a folder, not a model file; {hint}")
    if not path.exists():
        raise StorageError(f"{path}: there is no such file")
    return path


def warn_if_named() -> None:
    """Say it where the environment or the configuration file names a model, which goes before the default."""
    from .config_file import read_config

    if os.environ.get("GLM_EDGE_MODEL") or "model" in read_config():
        click.echo("warning: GLM_EDGE_MODEL or the configuration file names a model, which goes first", err=True)


def cache_folder(wanted: bool) -> Path | None:
    """The folder that keeps computed prefixes over restarts, in the user's cache folder; None if not wanted."""
    if not wanted:
        return None
    import platformdirs

    return Path(platformdirs.user_cache_dir("glm-edge", appauthor=False)) / "prefixes"


def cache_secret(folder: Path | None) -> bytes | None:
    """The secret of the cache folder; None without one, and where the folder cannot be used, as the engine will say."""
    from ..system.private import folder_key

    try:
        return None if folder is None else folder_key(folder)
    except (GlmEdgeError, OSError):
        return None
