"""The command line: one verb a file, imported only when it runs, so that help is instant.

Answers and results go to stdout, progress and messages to stderr. Every error that GLM Edge raises on purpose is one
line and an exit code (`errors.py`); `--debug` shows the traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
from difflib import get_close_matches
from typing import cast

import click

from .. import __version__
from .run import run, with_debug

# verb -> (module with `command`, the line that `glm-edge --help` shows)
_VERBS = {
    "convert": ("glm_edge.cli.convert", "Turn a ChatGLM2 checkpoint folder into one GGUF file."),
    "pull": ("glm_edge.cli.pull", "Fetch a checkpoint from the Hugging Face hub and convert it shard by shard."),
    "convert-adapter": ("glm_edge.cli.adapter", "Turn a P-Tuning v2 checkpoint into an adapter."),
    "imatrix": ("glm_edge.cli.imatrix", "Which columns of a model's weights matter most, for convert --imatrix."),
    "verify": ("glm_edge.cli.verify", "Check a model file to the last byte."),
    "serve": ("glm_edge.cli.serve", "Serve a model over HTTP."),
    "chat": ("glm_edge.cli.chat", "Chat in the terminal, or answer one prompt."),
    "list": ("glm_edge.cli.list", "The models that can be named, and which is the default."),
    "use": ("glm_edge.cli.use", "Choose the default model."),
    "rm": ("glm_edge.cli.rm", "Remove a model that GLM Edge made."),
    "config": ("glm_edge.cli.config", "Show the configuration file, with every key that it may have."),
    "completion": ("glm_edge.cli.completion", "Make a shell complete commands, options and models' names."),
    "perplexity": ("glm_edge.cli.perplexity", "How well a model predicts a text."),
    "compare": ("glm_edge.cli.compare", "How far a quantized model is from the one that it was made from."),
    "bench": ("glm_edge.cli.bench", "Measure speed and memory; --tune finds the fastest settings."),
    "runtime": ("glm_edge.cli.runtime", "Build llama.cpp for every processor of an architecture, as one wheel."),
    "bundle": ("glm_edge.cli.bundle", "Make a folder with all that a machine without a network needs."),
    "doctor": ("glm_edge.cli.doctor", "What this machine will do, and what stands in its way."),
    "service": ("glm_edge.cli.service", "Serve a model from the machine's start on, by systemd."),
    "rpc-server": ("glm_edge.cli.rpc_server", "Compute layers of a model that is too large for one machine."),
    "warm": ("glm_edge.cli.warm", "Compute prompts beforehand and save them beside the model."),
    "tokenize": ("glm_edge.cli.tokenize", "Token ids of texts, as JSON lines."),
}

_WITHOUT_CONFIG = ("config", "completion")  # one tells what is wrong with the file, one runs in every new shell


class _Verbs(click.Group):
    """A group that imports a verb when it is called and knows the help lines of all without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_VERBS]  # `list` is a verb's module once that is imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        return with_debug(cast(click.Command, importlib.import_module(_VERBS[cmd_name][0]).command))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _VERBS:
            near = get_close_matches(args[0], _VERBS, 1)
            hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(_VERBS)}"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _VERBS.items()])


@with_debug
@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "GLM_EDGE"})
@click.version_option(__version__, prog_name="glm-edge", allow_from_autoenv=False)
@click.pass_context
def glm_edge(context: click.Context) -> None:
    """ChatGLM2-6B on machines without a GPU and without a network."""
    from .config_file import configured

    root, verb = context.command, context.invoked_subcommand
    if isinstance(root, click.Group) and verb not in _WITHOUT_CONFIG:
        context.default_map = configured(root, verb)


def main() -> None:
    """Entry point of `glm-edge`."""
    if asked := os.environ.get("_GLM_EDGE_COMPLETE"):  # by a shell that `glm-edge completion` has taught
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(glm_edge, {}, "glm-edge", "_GLM_EDGE_COMPLETE", asked))
    sys.exit(run(glm_edge, sys.argv[1:], prog_name="glm-edge"))
