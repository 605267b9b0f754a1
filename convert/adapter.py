"""A P-Tuning v2 checkpoint to one small GGUF file: keys and values of the cells that go in front of every sequence.

The official trainer saves the prefix encoder alone: an embedding of one row a cell and, with `prefix_projection`, two
layers behind it. Its output, shape (cells, layers, keys and values, groups, head), is what the cells hold. The official
code does not rotate these keys, and the first position of the prompt is 0. In llama.cpp's cache the cells have the
positions 0 to P - 1, the prompt begins at P, and keys are stored rotated. A query then sees each cell under the angle
of its own position if the cells' keys are rotated by P; so they are, here.
Source: `PrefixEncoder` and `get_prompt` of modeling_chatglm.py, and the folder `ptuning`, of THUDM/ChatGLM2-6B.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGUFValueType as T
from numpy.typing import NDArray

from glm_edge import __version__
from glm_edge.errors import InvalidFileError, UsageError
from glm_edge.model import keys
from glm_edge.model.adapter import MAX_TOKENS, ModelShape, shape_of, tensor_names
from glm_edge.model.checks import check_model
from glm_edge.model.gguf import read_gguf
from glm_edge.model.head import with_padding

from .convert import default_output
from .layout import HeadEntry, head_of, no_hashes
from .metadata import Value
from .source.checkpoint import open_weights
from .source.config import read_config
from .source.files import StableFile, inside, names_in, raise_all, read_json, shown
from .source.shard import StoredTensor
from .source.sources import file_digest, sources_text
from .source.storage import FLOATS
from .write import OutputFile, check_output, check_space

CONFIG, LORA_CONFIG = "config.json", "adapter_config.json"
EMBEDDING = "embedding.weight"
PROJECTION = ("trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")  # Linear, tanh, Linear
# The trainer writes "transformer.prefix_encoder.NAME"; copies of it other prefixes, or none.
_NAME = re.compile(r"(?:(?:[\w-]+\.)*prefix_encoder\.)?((?:embedding|trans\.[02])\.(?:weight|bias))", re.ASCII)
_ROWS = 256  # of a projection, in float64 at a time: 29 MB of ChatGLM2-6B's


@dataclass(frozen=True)
class AdapterReport:
    """What a conversion of an adapter made."""

    path: Path
    size: int  # bytes
    tokens: int  # cells in front of every sequence
    projected: bool  # whether the checkpoint had the two layers behind the embedding


def convert_adapter(
    folder: Path,
    base: Path,
    out: Path | None = None,
    *,
    type: Literal["f16", "f32"] = "f16",
    force: bool = False,
) -> AdapterReport:
    """Convert the P-Tuning v2 checkpoint in a folder.

    Args:
        base: the model that it was trained for: a checkpoint folder or a GGUF file of ours.
        out: the GGUF file; by default NAME-adapter.gguf in ./models, or here where there is no such folder.
        type: of the keys and values. The cache is f16 unless it was asked to be f32.

    Raises UsageError, InvalidFileError (every tensor that is missing, unknown or does not fit is listed),
    UnsupportedModelError, StorageError or IntegrityError. After an error the output is as it was before.
    """
    names = names_in(folder, "a P-Tuning v2 checkpoint")
    if LORA_CONFIG in names:
        _refuse_peft(folder)
    shape = _shape(base)
    stored, files = open_weights(folder, names)
    config = StableFile.find(inside(folder, CONFIG)) if CONFIG in names else None
    settings = read_json(config.path) if config is not None else {}
    encoder = _encoder(folder, stored, settings, shape)
    tokens = encoder[EMBEDDING].shape[0]
    out = default_output(folder.resolve().name, "adapter") if out is None else out
    inputs = tuple(file.path for file in (*files, *([config] if config else [])))
    check_output(out, inputs, force=force)
    sources = sources_text(
        {path.name: path.stat().st_size for path in inputs}, {path.name: file_digest(path) for path in inputs}
    )
    data = _tensors(folder, _cells(encoder), shape, type)
    metadata = _metadata(folder, shape, tokens, sources)
    entries = [HeadEntry(name, values.shape, type) for name, values in data.items()]
    head = _hashed_head(metadata, entries, data)
    parts = [head, *(with_padding(values.tobytes()) for values in data.values())]
    size = sum(map(len, parts))
    with OutputFile(out, size) as file:
        check_output(out, inputs, force=force)
        check_space(out, size)
        for part in parts:
            file.write(part)
        file.finish()
        file.commit()
    return AdapterReport(out, size, tokens, PROJECTION[0] in encoder)


def _refuse_peft(folder: Path) -> None:
    """Raises UsageError, which says where it belongs: the folder is PEFT's."""
    kind = read_json(inside(folder, LORA_CONFIG)).get("peft_type")
    if kind == "LORA":
        raise UsageError(
            f"{folder}: is a LoRA; merge it into its model with glm-edge convert CHECKPOINT --lora {folder}"
        )
    raise UsageError(f"{folder}: is an adapter of PEFT ({shown(kind)}); only the official P-Tuning v2 can be converted")


def _shape(base: Path) -> ModelShape:
    if not base.is_dir():
        file = read_gguf(base)
        check_model(file)
        return shape_of(file)
    config = read_config(inside(base, CONFIG))
    return ModelShape(
        layers=config.num_layers,
        groups=config.multi_query_group_num,
        head=config.kv_channels,
        hidden=config.hidden_size,
        context=config.seq_length,
        rope_ratio=config.rope_ratio,
    )


def _encoder(
    folder: Path, stored: Mapping[str, StoredTensor], settings: Mapping[str, Any], shape: ModelShape
) -> dict[str, StoredTensor]:
    """The tensors of the prefix encoder by their own names. Raises InvalidFileError with all that does not fit."""
    problems: list[str] = []
    encoder: dict[str, StoredTensor] = {}
    unknown = []
    for name, tensor in stored.items():
        match = _NAME.fullmatch(name)
        if match is None or match[1] == "embedding.bias":
            unknown.append(name)
        elif match[1] in encoder:
            problems.append(f"{name} and {encoder[match[1]].name} are the same tensor; remove one")
        else:
            encoder[match[1]] = tensor
    if not encoder:
        raise InvalidFileError(
            f"{folder}: has no prefix encoder; give the folder that P-Tuning v2 saved, or convert a whole checkpoint"
            " with glm-edge convert"
        )
    problems += [f"{name} does not belong to a prefix encoder" for name in unknown]
    projected = any(name in encoder for name in PROJECTION) or settings.get("prefix_projection") is True
    for name in (EMBEDDING, *(PROJECTION if projected else ())):
        if name not in encoder:
            problems.append(f"{name} is missing")
    tokens = encoder[EMBEDDING].shape[0] if EMBEDDING in encoder and encoder[EMBEDDING].shape else 0
    wide = shape.width * shape.layers * 2
    expected: dict[str, tuple[int, ...]] = {
        EMBEDDING: (tokens, wide),
        "trans.0.weight": (shape.hidden, wide),
        "trans.0.bias": (shape.hidden,),
        "trans.2.weight": (wide, shape.hidden),
        "trans.2.bias": (wide,),
    }
    for name, tensor in encoder.items():
        if tensor.shape != expected[name]:
            problems.append(
                f"{tensor.name} has the shape {tensor.shape} where the model makes it {expected[name]}"
                f" ({shape.layers} layers x 2 x {shape.groups} groups x {shape.head})"
            )
        if tensor.dtype not in FLOATS:
            problems.append(f"{tensor.name} holds {tensor.dtype} where weights are f32, f16 or bf16")
    if not 0 < tokens <= min(MAX_TOKENS, shape.context // 2):
        problems.append(f"it has {tokens} cells, must be 1 to {min(MAX_TOKENS, shape.context // 2)}")
    if settings.get("pre_seq_len") not in (None, tokens):
        problems.append(f"{CONFIG}: pre_seq_len is {shown(settings['pre_seq_len'])} where the weights have {tokens}")
    if settings.get("prefix_projection") is False and projected:
        problems.append(f"{CONFIG}: prefix_projection is false where the weights have one")
    raise_all(folder, problems)
    return encoder


def _cells(encoder: Mapping[str, StoredTensor]) -> NDArray[np.float64]:
    """What the prefix encoder gives, shape (cells, layers x 2 x groups x head), in float64."""
    rows: NDArray[np.float64] = _values(encoder[EMBEDDING], 0, encoder[EMBEDDING].rows)
    if PROJECTION[0] not in encoder:
        return rows
    hidden = np.tanh(_linear(rows, encoder["trans.0.weight"], encoder["trans.0.bias"]))
    return _linear(hidden, encoder["trans.2.weight"], encoder["trans.2.bias"])


def _values(tensor: StoredTensor, start: int, stop: int) -> NDArray[np.float64]:
    """Rows of a tensor in float64. Raises InvalidFileError for one that is not finite."""
    rows = tensor.read_rows(start, stop)
    if not np.isfinite(rows).all():
        at = start + int(np.argmin(np.isfinite(rows).all(axis=1)))
        raise InvalidFileError(f"{tensor.file.path}: {tensor.name} row {at}: a weight is not a finite number")
    return rows.astype(np.float64)


def _linear(x: NDArray[np.float64], weight: StoredTensor, bias: StoredTensor) -> NDArray[np.float64]:
    parts = [x @ _values(weight, start, min(start + _ROWS, weight.rows)).T for start in range(0, weight.rows, _ROWS)]
    return np.concatenate(parts, axis=1) + _values(bias, 0, 1)


def _tensors(
    folder: Path, cells: NDArray[np.float64], shape: ModelShape, type: Literal["f16", "f32"]
) -> dict[str, NDArray[Any]]:
    """Keys, rotated, and values of each layer, shape (cells, groups x head), by their names in the file."""
    tokens = len(cells)
    by_layer = cells.reshape(tokens, shape.layers, 2, shape.groups, shape.head)
    angles = tokens / shape.rope_ratio * 10000.0 ** (-np.arange(0, shape.head // 2, 2) / (shape.head // 2))
    cos, sin = np.cos(angles), np.sin(angles)
    found: dict[str, NDArray[Any]] = {}
    for layer in range(shape.layers):
        rotated = by_layer[:, layer, 0].copy()
        even, odd = by_layer[:, layer, 0, :, 0 : shape.head // 2 : 2], by_layer[:, layer, 0, :, 1 : shape.head // 2 : 2]
        rotated[..., 0 : shape.head // 2 : 2] = even * cos - odd * sin
        rotated[..., 1 : shape.head // 2 : 2] = odd * cos + even * sin
        for name, values in zip(tensor_names(layer), (rotated, by_layer[:, layer, 1]), strict=True):
            with np.errstate(over="ignore"):
                stored = values.reshape(tokens, shape.width).astype("<f2" if type == "f16" else "<f4")
            if not np.isfinite(stored).all():
                raise InvalidFileError(f"{folder}: layer {layer} has numbers that {type} cannot hold; take --type f32")
            found[name] = stored
    return found


def _metadata(folder: Path, shape: ModelShape, tokens: int, sources: str) -> dict[str, Value]:
    def number(value: int) -> Value:
        return Value(T.UINT32, value)

    name = re.sub(r"[^\w .-]+", "-", folder.resolve().name).strip() or "adapter"
    return {
        keys.GENERAL_TYPE: Value(T.STRING, "adapter"),
        keys.ADAPTER_TYPE: Value(T.STRING, "prefix"),
        keys.GENERAL_NAME: Value(T.STRING, name[:100]),
        keys.BLOCK_COUNT: number(shape.layers),
        keys.HEAD_COUNT_KV: number(shape.groups),
        keys.KEY_LENGTH: number(shape.head),
        keys.EMBEDDING_LENGTH: number(shape.hidden),
        keys.CONTEXT_LENGTH: number(shape.context),
        keys.ROPE_SCALING_FACTOR: Value(T.FLOAT32, float(np.float32(shape.rope_ratio))),
        keys.ADAPTER_TOKENS: number(tokens),
        keys.VERSION: Value(T.STRING, __version__),
        keys.SOURCES: Value(T.STRING, sources),
    }


def _hashed_head(metadata: Mapping[str, Value], entries: list[HeadEntry], data: Mapping[str, NDArray[Any]]) -> bytes:
    """The head with the hashes of itself and of every tensor in it."""
    empty = no_hashes(len(entries))
    head = head_of({**metadata, keys.HASHES: Value(T.STRING, empty)}, entries)
    hashes = [hashlib.sha256(part).hexdigest() for part in (head, *(values.tobytes() for values in data.values()))]
    return head.replace(empty.encode(), "".join(hashes).encode(), 1)
