"""Checks whether a model file is, to the last byte, what the converter wrote.

In this order: structure and keys, by our own reader; every tensor's data, read once, for scales that are not finite and
against the hashes in the head; the head's own hash; token ids of the golden texts. Only the last step uses a runtime,
which gets the file when all else is right. A few megabytes of weights are in memory at a time. An adapter has no token
ids; its own reader compares its hashes. The hashes find damage, not forgery: who can write the file can write them too.
The same holds for the hashes of the source files, which `compare_sources` compares.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ..convert.source.sources import file_digest
from ..errors import IntegrityError, InvalidFileError, StorageError, UnsupportedModelError
from ..model.adapter import is_adapter, read_adapter
from ..model.checks import check_model
from ..model.gguf import read_gguf
from ..model.keys import HASH_DIGITS, HASHES, SOURCES
from ..model.values import TENSOR_TYPES, GgufFile, TensorInfo
from ..system.safe_open import safe_open
from ..types import RuntimeName

STEP = 4 << 20  # bytes read at a time
AGAIN = "download the file or convert the checkpoint again"

# Where each block has its float16 scales, in bytes from its start: ggml's block_* in ggml-common.h. Types of plain
# floats: mask of the exponent, all of whose bits are set in infinities and NaN.
SCALES = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "q2_k": (80, 82), "q3_k": (108,),
    "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,), "iq4_xs": (0,),
}  # fmt: skip
FLOATS = {"f32": ("<u4", 0x7F800000), "f16": ("<u2", 0x7C00), "bf16": ("<u2", 0x7F80)}


def verify(
    path: Path, progress: Callable[[int, int], None] | None = None, runtime_name: RuntimeName = "llama"
) -> GgufFile:
    """Check the file at `path`; `progress` is called with bytes read and bytes in all.

    Raises InvalidFileError (structure, keys, a scale that is not finite), IntegrityError (a hash, golden token ids),
    UnsupportedModelError (not ChatGLM2, a file without hashes, or types that the runtime computes wrongly),
    StorageError, OutOfMemoryError.
    """
    file = read_gguf(path)
    if is_adapter(file):
        return read_adapter(path).file
    check_model(file)
    hashes = _hashes(file)
    try:
        with io.BufferedReader(safe_open(path)) as content:
            for tensor, expected in zip(file.tensors, hashes[1:], strict=True):
                _check_tensor(file, content, tensor, expected, progress)
            _check_head(file, content, hashes)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
    _check_golden(file, runtime_name)
    return file


class Source(NamedTuple):
    """A source file: one that a model was made from."""

    name: str
    size: int  # bytes
    sha256: str  # hexadecimal


def sources(file: GgufFile) -> tuple[Source, ...]:
    """The source files that the model names; empty if it names none that can be compared."""
    try:
        entries = json.loads(str(file.metadata.get(SOURCES)))
    except (ValueError, RecursionError):
        return ()
    if not isinstance(entries, list) or not all(_is_source(entry) for entry in entries):
        return ()
    return tuple(Source(*entry) for entry in entries)


def _is_source(entry: object) -> bool:
    match entry:
        case [str(name), int(), str(digest)]:
            return bool(
                re.fullmatch(r"\w[\w.-]{0,199}", name, re.ASCII) and re.fullmatch(f"[0-9a-f]{{{HASH_DIGITS}}}", digest)
            )
    return False


def compare_sources(
    file: GgufFile, folders: Sequence[Path], progress: Callable[[int, int], None] | None = None
) -> None:
    """Compare the source files of a model with those in the folders, which are searched one after the other.

    Raises IntegrityError for a file with another hash, InvalidFileError for one that is missing, UnsupportedModelError
    if the model does not name its source files, StorageError.
    """
    if not (found := sources(file)):
        raise UnsupportedModelError(f"{file.path}: does not name its source files; convert the checkpoint again")
    done = 0
    for source in found:
        path = next((path for folder in folders if (path := folder / source.name).exists()), folders[0] / source.name)
        digest = file_digest(path)
        if digest != source.sha256:
            raise IntegrityError(
                f"{path}: is not the file that {file.path.name} was made from: its SHA-256 is {digest[:12]}…, the"
                f" other's {source.sha256[:12]}…; download it again, or convert the checkpoint again"
            )
        done += source.size
        if progress is not None:
            progress(done, sum(source.size for source in found))


def _hashes(file: GgufFile) -> list[str]:
    """The hashes in the file: the head's, then each tensor's."""
    text = file.metadata.get(HASHES)
    if text is None:
        raise UnsupportedModelError(f"{file.path}: has no {HASHES} to compare with; convert the checkpoint again")
    count = 1 + len(file.tensors)
    if not isinstance(text, str) or not re.fullmatch(f"[0-9a-f]{{{HASH_DIGITS * count}}}", text):
        raise InvalidFileError(
            f"{file.path}: {HASHES} must be {count} hashes of {HASH_DIGITS} hexadecimal digits; {AGAIN}"
        )
    return [text[i : i + HASH_DIGITS] for i in range(0, len(text), HASH_DIGITS)]


def _check_tensor(
    file: GgufFile,
    content: BinaryIO,
    tensor: TensorInfo,
    expected: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    type_name, block, size = TENSOR_TYPES[tensor.type]
    if type_name not in SCALES and type_name not in FLOATS:
        raise UnsupportedModelError(f"{file.path}: {tensor.name} is {type_name}, which glm-edge convert does not make")
    blocks_a_row = tensor.shape[0] // block
    content.seek(tensor.offset)
    running, done = hashlib.sha256(), 0
    while done < tensor.n_bytes:
        data = content.read(min(STEP // size * size, tensor.n_bytes - done))
        if not data or len(data) % size:
            raise IntegrityError(f"{file.path}: became shorter while it was read; {AGAIN}")
        running.update(data)
        if (bad := first_not_finite(data, type_name, size)) is not None:
            row = (done // size + bad) // blocks_a_row
            what = "weight" if type_name in FLOATS else f"scale of its {type_name} blocks"
            raise InvalidFileError(f"{file.path}: {tensor.name} row {row}: a {what} is not a finite number; {AGAIN}")
        done += len(data)
        if progress is not None:
            progress(tensor.offset + done, file.size)
    if running.hexdigest() != expected:
        raise IntegrityError(
            f"{file.path}: the data of {tensor.name} has the SHA-256 {running.hexdigest()[:12]}…, recorded is"
            f" {expected[:12]}…; {AGAIN}"
        )


def first_not_finite(data: bytes, type_name: str, size: int) -> int | None:
    """The number of the first block with a scale that is infinite or NaN."""
    if type_name in FLOATS:
        code, mask = FLOATS[type_name]
        bad = (np.frombuffer(data, code) & mask) == mask
    else:
        blocks = np.frombuffer(data, np.uint8).reshape(-1, size)
        high = np.stack([blocks[:, at + 1] for at in SCALES[type_name]])  # sign, exponent, two bits of the fraction
        bad = ((high & 0x7C) == 0x7C).any(axis=0)
    return int(bad.argmax()) if bad.any() else None


def _check_head(file: GgufFile, content: BinaryIO, hashes: list[str]) -> None:
    content.seek(0)
    text = "".join(hashes).encode()
    head = content.read(file.data_offset).replace(text, b"0" * len(text), 1)
    if (found := hashlib.sha256(head).hexdigest()) != hashes[0]:
        raise IntegrityError(
            f"{file.path}: its metadata has the SHA-256 {found[:12]}…, recorded is {hashes[0][:12]}…; {AGAIN}"
        )


def _check_golden(file: GgufFile, runtime_name: RuntimeName) -> None:
    from ..engine.text.tokenizer import Tokenizer
    from ..llama.model import Model, check_types
    from ..llama.runtime import runtime

    check_types(file, runtime(runtime_name))
    model = Model(file.path, vocab_only=True, runtime_name=runtime_name)
    try:
        Tokenizer(model, file)
    finally:
        model.close()
