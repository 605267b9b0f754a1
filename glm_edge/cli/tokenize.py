"""`glm-edge tokenize`: texts in, token ids out, both as JSON lines."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import click

from ..errors import InvalidFileError
from ..system.address_space import require_addresses
from .model import model_option
from .progress import bar


@click.command("tokenize")
@model_option
def command(model: Path | None) -> None:
    """Token ids of texts: reads {"text": …} lines on stdin, writes {"ids": […]} lines.

    The ids are those of plain text: no control token is added and none is parsed out of the text.
    """
    require_addresses()
    from ..engine.text.tokenizer import Tokenizer
    from ..llama.model import Model
    from ..model.checks import check_model
    from ..model.gguf import read_gguf
    from .model import resolve_model

    file = read_gguf(resolve_model(model))
    check_model(file)
    vocabulary = Model(file.path, vocab_only=True)
    Tokenizer(vocabulary, file)  # refuses a vocabulary that gives other ids than the converter got
    try:
        with bar("tokenizing", total=_size(), unit="B", unit_scale=True, delay=2) as shown:
            for number, line in enumerate(sys.stdin.buffer, 1):
                if line.strip():
                    click.echo(json.dumps({"ids": vocabulary.tokenize(_text(line, number))}))
                shown.update(len(line))
    finally:
        vocabulary.close()


def _size() -> int | None:
    """Bytes of stdin where it is a file; None where nobody knows yet."""
    try:
        status = os.fstat(sys.stdin.fileno())
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _text(line: bytes, number: int) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidFileError(f"stdin: line {number} is not JSON ({error})") from None
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise InvalidFileError(f'stdin: line {number} is not an object with a string "text"')
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidFileError(f"stdin: line {number} has half a surrogate pair, which is no character") from None
    return text
