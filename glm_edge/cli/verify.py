"""`glm-edge verify`: check that a model file is, to the last byte, what the converter wrote. See `tools/verify.py`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..system.address_space import require_addresses
from ..types import RuntimeName
from .number import OneOf
from .progress import progress_bar


@click.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--sources",
    "folders",
    type=click.Path(path_type=Path),
    metavar="DIR",
    multiple=True,
    help="Compare the files that the model was made from, in this folder; repeatable, for a LoRA's folder.",
)
@click.option(
    "--runtime",
    type=OneOf(["llama", "ik"]),
    default="llama",
    show_default=True,
    help="Whose token ids are compared: llama.cpp's or ik_llama.cpp's, which must know the file's types too.",
)
def command(file: Path, folders: tuple[Path, ...], runtime: RuntimeName) -> None:
    """Check the model FILE to the last byte: structure, hashes, scales, token ids.

    Exits with 3 if its format is broken, with 4 if its content has changed. Prints a sentence and one
    JSON line, with the SHA-256 of every file that the model was made from, as the Hugging Face hub shows it.
    """
    require_addresses()
    from ..model import keys
    from ..model.adapter import is_adapter
    from ..model.checks import golden_texts
    from ..tools.verify import compare_sources, sources, verify
    from .model import resolve_model

    with progress_bar("verify") as progress:
        head = verify(resolve_model(file), progress, runtime)
    if folders:
        with progress_bar("sources") as progress:
            compare_sources(head, folders, progress)
    recipe, version = head.metadata.get(keys.RECIPE), head.metadata.get(keys.VERSION)
    if is_adapter(head):
        what = f"an adapter of {head.metadata[keys.ADAPTER_TOKENS]} cells, {head.size / 1e6:.1f} MB"
    else:
        what = f"{recipe}, {head.size / 1e9:.3f} GB, {len(head.tensors)} tensors"
        what += f", the right token ids for {len(golden_texts(head))} texts"
    click.echo(
        f"{file}: unchanged since GLM Edge {version} wrote it: {what}"
        + (f"; the {len(sources(head))} files that it was made from are unchanged too" if folders else "")
    )
    facts = {"file": file.name, "bytes": head.size, "head_sha256": str(head.metadata[keys.HASHES])[: keys.HASH_DIGITS]}
    click.echo(json.dumps(facts | {"sources": {source.name: source.sha256 for source in sources(head)}}))
