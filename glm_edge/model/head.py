"""The head of a GGUF file as bytes, out of the gguf package's writer, which knows only files.

Not here: what stands in it (`convert/layout.py`, `convert/source/importance.py`), and reading it (`gguf.py`).
"""

from __future__ import annotations

import io

from gguf import GGUFWriter
from gguf.gguf_writer import WriterState

ALIGNMENT = 32  # GGUF's default: head and every tensor are padded to a multiple of it


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def with_padding(part: bytes) -> bytes:
    return part + bytes(padded(len(part)) - len(part))


def head_bytes(writer: GGUFWriter) -> bytes:
    """The bytes before the tensors' data, padded, of a writer that has no file and was given all keys and tensors."""
    buffer = io.BytesIO()
    writer.fout = [io.BufferedWriter(buffer)]
    writer.state = WriterState.EMPTY  # as after opening a file
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return with_padding(buffer.getvalue())
