"""`glm-edge serve`: a model behind an HTTP address, until Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..api.config import ServeConfig
from ..api.http.limits import Limits
from ..system.address_space import require_addresses
from ..types import LEAST_CTX, EngineConfig, RpcServer, RuntimeName
from .model import huge_pages_option, model_option, runtime_option, tune_option
from .number import Number, ThreadCount, WholeNumber
from .rpc_server import rpc_servers

if TYPE_CHECKING:
    from ..api.access.keys import Keys
    from ..types import Engine


@click.command("serve")
@model_option
@click.option(
    "--host", default=ServeConfig.host, show_default=True, help="Address to listen on; beyond loopback needs a key."
)
@click.option(
    "--port", type=WholeNumber(0, 65535), default=ServeConfig.port, show_default=True, help="0 takes a free one."
)
@click.option("--api-key", "api_keys", multiple=True, metavar="KEY", help="A key that clients must send; repeatable.")
@click.option(
    "--api-key-file", type=click.Path(path_type=Path), help="A file with one key a line, read when it changes."
)
@click.option("--ctx", "n_ctx", type=WholeNumber(LEAST_CTX), help="Tokens of context, prompt and answer together.")
@click.option("--threads", type=ThreadCount(), help="Threads that compute.  [default: one for each big core]")
@runtime_option
@huge_pages_option
@tune_option
@click.option("--slots", type=WholeNumber(1, 64), default=4, show_default=True, help="Answers at the same time.")
@click.option(
    "--queue",
    type=WholeNumber(0, 1000),
    default=EngineConfig.queue,
    show_default=True,
    help="Requests that may wait.",
)
@click.option(
    "--cache/--no-cache", default=True, show_default=True, help="Keep computed prompts on disk, for restarts."
)
@click.option(
    "--share-prefixes", is_flag=True, help="Let keys share computed prompts; they can find out what others asked."
)
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="Another name of the model; repeatable.")
@click.option(
    "--rpc",
    callback=rpc_servers,
    metavar="HOST:PORT,...",
    help="Machines with glm-edge rpc-server that compute layers of the model; with =GIB, the memory to use there.",
)
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME=FILE",
    help="An adapter of convert-adapter, that clients choose by its name as model; repeatable. Or a folder of them.",
)
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="Another Host to answer to; repeatable.")
@click.option(
    "--allow-origin", "origins", multiple=True, metavar="URL", help="A web page's origin that may call; repeatable."
)
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A proxy in front, whose X-Forwarded-For and X-Forwarded-Proto are believed; repeatable, networks too.",
)
@click.option(
    "--per-key",
    type=WholeNumber(1),
    metavar="N",
    help="Answers that one key may have at once, waiting ones included.  [default: half, where there are several keys]",
)
@click.option(
    "--max-wait",
    type=Number(1),
    default=ServeConfig.max_wait,
    show_default=True,
    help="Seconds that a request may wait.",
)
@click.option(
    "--wait-for-model", is_flag=True, help="Let requests wait while the model is loaded, instead of refusing them."
)
@click.option(
    "--grace", type=Number(0), default=ServeConfig.grace, show_default=True, help="Seconds to end answers in."
)
@click.option(
    "--in-process",
    is_flag=True,
    help="Run the engine in the server's own process: if it crashes or hangs, so does the server.  [default: in a"
    " process of its own, which is started again]",
)
@click.option("--open", "open_", is_flag=True, help="Open the chat page in a browser when the model is loaded.")
@click.option("--trim-history", "trim", is_flag=True, help="Leave out the oldest rounds of what does not fit.")
def command(
    model: Path | None,
    host: str,
    port: int,
    api_keys: tuple[str, ...],
    api_key_file: Path | None,
    n_ctx: int | None,
    threads: int | None,
    runtime: RuntimeName | None,
    huge_pages: bool,
    tune: bool,
    rpc: tuple[RpcServer, ...],
    slots: int,
    queue: int,
    cache: bool,
    share_prefixes: bool,
    aliases: tuple[str, ...],
    adapters: tuple[str, ...],
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    proxies: tuple[str, ...],
    per_key: int | None,
    max_wait: float,
    wait_for_model: bool,
    grace: float,
    in_process: bool,
    open_: bool,
    trim: bool,
) -> None:
    """Serve a model over HTTP, as OpenAI's chat completions.

    A key can also be given in GLM_EDGE_API_KEY: other users of the machine can read options, not the environment.
    Ctrl-C lets running answers end; a second one stops at once. SIGHUP reads the files of --adapter again.
    """
    require_addresses(threads=max(Limits.threads, slots + queue))
    from ..api.serve import serve
    from ..errors import UsageError
    from ..worker import Worker
    from ..worker.load_progress import LOAD_PROGRESS
    from .adapter import parse_adapters
    from .model import cache_folder, resolve_model

    if not all(name.strip() for name in aliases):
        raise UsageError("--alias is empty; give the name by which clients may ask for the model")
    if rpc and in_process:
        raise UsageError("--rpc without a process of the engine's own: a lost machine would end the server")
    folder = cache_folder(cache)
    keys = _collect_keys(api_keys, api_key_file, folder)
    path = resolve_model(model)
    engine = EngineConfig(
        path,
        runtime=runtime,
        huge_pages=huge_pages,
        n_ctx=n_ctx,
        n_threads=threads,
        slots=slots,
        queue=queue,
        cache_folder=folder,
        adapters=parse_adapters(adapters),
        rpc=rpc,
    )
    config = ServeConfig(
        host,
        port,
        keys,
        hosts=frozenset(name.lower() for name in hosts),
        origins=frozenset(origins),
        proxies=frozenset(proxies),
        aliases=frozenset(aliases),
        grace=grace,
        trim=trim,
        share_prefixes=share_prefixes,
        capacity=slots + queue,
        per_key=per_key,
        max_wait=max_wait,
        wait_for_model=wait_for_model,
        reload=bool(adapters),
    )
    # a file that was broken since the start must not keep the engine from starting again
    load, reload = partial(_load, engine, tune=tune), partial(_load, replace(engine, broken_adapters=True), quiet=True)
    make = load if in_process else lambda: Worker(load, reload)
    serve(make, config, _open if open_ else lambda url: None, LOAD_PROGRESS.left_s)


def _collect_keys(given: Sequence[str], file: Path | None, cache: Path | None) -> Keys:
    """The keys of options, key file and environment; warns where others can read one.

    Args:
        cache: the folder of computed prompts, whose secret tells the keys apart there.
    """
    from ..api.access.keys import Keys, key_file_warnings
    from .model import cache_secret

    keys = Keys.collect(given, file, os.environ, secret=cache_secret(cache))
    source = click.get_current_context().get_parameter_source("api_keys")
    if source is click.core.ParameterSource.COMMANDLINE:
        click.echo(
            "warning: other users of this machine can see --api-key in the list of processes; give the key in"
            " GLM_EDGE_API_KEY or --api-key-file",
            err=True,
        )
    for warning in key_file_warnings(file) if file else ():
        click.echo(f"warning: {warning}", err=True)
    return keys


def _open(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        click.echo("warning: there is no browser that can be opened", err=True)


def _load(config: EngineConfig, *, quiet: bool = False, tune: bool = False) -> Engine:
    """In the engine's process: the server's own never loads native code."""
    from .load import load_engine

    return load_engine(config, quiet=quiet, tune=tune)
