"""Checks that a sound GGUF file is a model that GLM Edge can run, before llama.cpp opens it.

llama.cpp trusts the metadata: a head count of zero or a short token ends the process, an unknown key changes the
computation, a split count makes it open further files. So every key that it reads for the `chatglm` architecture
(llama.cpp `src/models/chatglm.cpp`, `llama-model.cpp` load_hparams, `llama-vocab.cpp` load) is checked here by type and
range, and every tensor by name and shape (`tensors.py`). Not here: the file's structure (`gguf.py`), and whether the
golden texts give their token ids, which takes the loaded vocabulary.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections import Counter

from ..errors import InvalidFileError, UnsupportedModelError
from ..system.safe_open import safe_open
from . import keys
from .keys import ARCHITECTURE, GOLDEN, PREFIX_IDS
from .tensors import Sizes, tensor_problems
from .values import TENSOR_TYPES, GgufFile, ScalarArray, StringArray

CONVERT = "convert the original checkpoint with glm-edge convert"

# Keys under "chatglm.", with type and range, both ends included. Any other key there is refused: llama.cpp reads dozens
# for all architectures at once (experts, scaling, windows) and stops the process on some of their values.
REQUIRED = {
    keys.CONTEXT_LENGTH: ("u32", 1, 1 << 20),
    keys.EMBEDDING_LENGTH: ("u32", 2, 1 << 16),
    keys.FEED_FORWARD_LENGTH: ("u32", 1, 1 << 20),
    keys.BLOCK_COUNT: ("u32", 1, 512),  # LLAMA_MAX_LAYERS
    keys.HEAD_COUNT: ("u32", 1, 1 << 12),
    keys.HEAD_COUNT_KV: ("u32", 1, 1 << 12),
    keys.NORM_EPSILON: ("f32", 9e-13, 0.11),  # the converter takes 1e-12 to 0.1, and float32 rounds
    keys.ROPE_DIMENSIONS: ("u32", 2, 1 << 12),
}
OPTIONAL = {
    keys.KEY_LENGTH: ("u32", 1, 1 << 12),
    keys.VALUE_LENGTH: ("u32", 1, 1 << 12),
    keys.ROPE_BASE: ("f32", 1.0, 1e12),
    keys.ROPE_SCALING_FACTOR: ("f32", 9e-7, 1e6),  # chatglm2-6b-32k divides positions by it
    keys.VOCAB_SIZE: ("u32", 1, 1 << 20),
}

# Token types of the vocabulary, by llama.cpp's numbers: normal, unknown, control, user-defined, unused, byte.
NORMAL, BYTE = 1, 6
BYTE_TEXTS = frozenset(f"<0x{byte:02X}>" for byte in range(256))

# The weights that a fingerprint reads.
SAMPLES, SAMPLE_BYTES = 64, 4096


def check_model(file: GgufFile) -> None:
    """Raise unless `file` is a ChatGLM2 model as `glm-edge convert` writes it.

    Raises UnsupportedModelError for another architecture, another tokenizer or a file that another program made;
    InvalidFileError for one whose metadata or tensors contradict each other or leave their ranges.
    """
    _check_origin(file)
    _refuse_unknown_keys(file)
    sizes = model_sizes(file)
    _check_vocabulary(file, sizes.vocab)
    _check_special_ids(file, sizes.vocab)
    if problems := tensor_problems(file.tensors, sizes):
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise _invalid(file, f"{len(problems)} tensors are wrong: {'; '.join(problems[:5])}{more}")
    for token in prefix_ids(file):
        _check_id(file, PREFIX_IDS, token, sizes.vocab)
    for _, ids in golden_texts(file):
        for token in ids:
            _check_id(file, GOLDEN, token, sizes.vocab)


def prefix_ids(file: GgufFile) -> tuple[int, int]:
    """The ids of [gMASK] and sop. Raises InvalidFileError unless there are two."""
    ids = tuple(int(token) for token in _scalars(file, PREFIX_IDS, "i32"))
    if len(ids) != 2:
        raise _invalid(file, f"{PREFIX_IDS} has {len(ids)} token ids, must have 2")
    return ids[0], ids[1]


def golden_texts(file: GgufFile) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Texts, and the token ids that the vocabulary must give them. Raises InvalidFileError unless well formed."""
    text = _text(file, GOLDEN)
    try:
        pairs = json.loads(text)
    except (ValueError, RecursionError):
        raise _invalid(file, f"{GOLDEN} is not JSON") from None
    if not isinstance(pairs, list) or not pairs or not all(_is_golden(pair) for pair in pairs):
        raise _invalid(file, f"{GOLDEN} must be a list of [text, [token id, …]] and not empty")
    return tuple((text, tuple(ids)) for text, ids in pairs)


def context_length(file: GgufFile) -> int:
    """Tokens of context that the model was made for."""
    return int(_number(file, keys.CONTEXT_LENGTH, *REQUIRED[keys.CONTEXT_LENGTH]))


def model_id(file: GgufFile) -> str:
    """The model's name for clients: the one in the metadata, or the file's own if there is none."""
    name = file.metadata.get(keys.GENERAL_NAME)
    return name if isinstance(name, str) and name else file.path.stem


def model_type(file: GgufFile) -> str:
    """The recipe of its conversion; of another converter's file, the type of most of its tensors."""
    most = Counter(TENSOR_TYPES[tensor.type][0] for tensor in file.tensors).most_common(1)
    return str(file.metadata.get(keys.RECIPE) or most[0][0])


def fingerprint(file: GgufFile) -> bytes:
    """A digest that tells models apart without reading gigabytes: of the whole head, and of samples of the weights."""
    digest = hashlib.sha256(file.size.to_bytes(8, "little"))
    with io.BufferedReader(safe_open(file.path)) as content:
        digest.update(content.read(file.data_offset))
        for sample in range(SAMPLES):
            content.seek(file.data_offset + (file.size - file.data_offset) * sample // SAMPLES)
            digest.update(content.read(SAMPLE_BYTES))
    return digest.digest()


def _is_golden(pair: object) -> bool:
    if not isinstance(pair, list) or len(pair) != 2:
        return False
    text, ids = pair
    if not isinstance(text, str) or any("\ud800" <= letter <= "\udfff" for letter in text):  # half a character
        return False
    return isinstance(ids, list) and all(type(token) is int for token in ids)


def _invalid(file: GgufFile, what: str) -> InvalidFileError:
    return InvalidFileError(f"{file.path}: {what}; download the file or {CONVERT} again")


def _missing_or_typed(file: GgufFile, key: str, type_name: str) -> InvalidFileError:
    if key not in file.metadata:
        return _invalid(file, f"{key} is missing")
    return _invalid(file, f"{key} has the type {file.types[key]}, must be {type_name}")


def _text(file: GgufFile, key: str) -> str:
    value = file.metadata.get(key)
    if not isinstance(value, str):
        raise _missing_or_typed(file, key, "str")
    return value


def _scalars(file: GgufFile, key: str, element: str) -> ScalarArray:
    value = file.metadata.get(key)
    if not isinstance(value, ScalarArray) or value.type != element:
        raise _missing_or_typed(file, key, f"[{element}]")
    return value


def _number(file: GgufFile, key: str, type_name: str, low: float, high: float) -> float:
    """The number under a key. Raises InvalidFileError unless it is there, of that type and in low..high."""
    value = file.metadata.get(key)
    if file.types.get(key) != type_name or not isinstance(value, int | float):
        raise _missing_or_typed(file, key, type_name)
    if not low <= value <= high:  # false for NaN too
        raise _invalid(file, f"{key} is {value}, must be {low} to {high}")
    return value


def _check_origin(file: GgufFile) -> None:
    """Raise unless this is a chatglm model, in one file, with the keys of our converter."""
    architecture = _text(file, keys.GENERAL_ARCHITECTURE)
    if architecture != ARCHITECTURE:
        raise UnsupportedModelError(
            f"{file.path}: is a model of the architecture {architecture[:64]!r}; GLM Edge runs ChatGLM2-6B"
            f" ({ARCHITECTURE!r}): give it such a model's GGUF file"
        )
    if file.metadata.get(keys.GENERAL_TYPE) == "adapter":
        raise UnsupportedModelError(
            f"{file.path}: is an adapter, not a model; name its model with --model and this file with --adapter"
        )
    if any(key.startswith("split.") for key in file.metadata):
        raise UnsupportedModelError(f"{file.path}: is one part of a split model; {CONVERT} into one file")
    for key in (PREFIX_IDS, GOLDEN):
        if key not in file.metadata:
            raise UnsupportedModelError(
                f"{file.path}: was made by another program ({key} is missing), whose token ids may be wrong; {CONVERT}"
            )
    name = _text(file, keys.GENERAL_NAME)  # shown to users and clients
    if not 0 < len(name) <= 256 or not name.isprintable():
        raise _invalid(file, f"{keys.GENERAL_NAME} is {name[:64]!r}, must be 1 to 256 printable characters")
    tokenizer = _text(file, keys.TOKENIZER_MODEL)
    if tokenizer != "llama":  # llama.cpp's name for SentencePiece BPE with byte fallback
        raise UnsupportedModelError(f"{file.path}: its tokenizer is {tokenizer[:64]!r}, must be 'llama'; {CONVERT}")


def _refuse_unknown_keys(file: GgufFile) -> None:
    """Raise for a key under "chatglm." that ChatGLM2 does not have."""
    for key, value in file.metadata.items():
        known = key in REQUIRED or key in OPTIONAL or (key == keys.ROPE_SCALING and value == "linear")
        if key.startswith(f"{ARCHITECTURE}.") and not known:
            raise UnsupportedModelError(
                f"{file.path}: has the key {key} ({str(value)[:64]!r}), which is not ChatGLM2's and would change what"
                f" llama.cpp computes; {CONVERT}"
            )


def model_sizes(file: GgufFile) -> Sizes:
    """The sizes of the model. Raises InvalidFileError unless they are in their ranges and agree with each other."""
    present = {key: kind for key, kind in (REQUIRED | OPTIONAL).items() if key in REQUIRED or key in file.metadata}
    found = {key: _number(file, key, *kind) for key, kind in present.items()}
    tokens = file.metadata.get(keys.TOKENS)
    if not isinstance(tokens, StringArray):
        raise _missing_or_typed(file, keys.TOKENS, "[str]")
    sizes = Sizes(
        hidden=int(found[keys.EMBEDDING_LENGTH]),
        ffn=int(found[keys.FEED_FORWARD_LENGTH]),
        layers=int(found[keys.BLOCK_COUNT]),
        heads=int(found[keys.HEAD_COUNT]),
        groups=int(found[keys.HEAD_COUNT_KV]),
        vocab=len(tokens),
    )
    if sizes.hidden % sizes.heads or sizes.heads % sizes.groups:
        raise _invalid(
            file,
            f"embedding_length {sizes.hidden}, head_count {sizes.heads} and head_count_kv {sizes.groups}: each must be"
            " a multiple of the next",
        )
    if sizes.head % 4:  # half of each head is rotated, in pairs
        raise _invalid(
            file, f"the heads are {sizes.head} long (embedding_length / head_count), must be a multiple of 4"
        )
    expected = {
        keys.KEY_LENGTH: sizes.head,
        keys.VALUE_LENGTH: sizes.head,
        keys.ROPE_DIMENSIONS: sizes.head // 2,
        keys.VOCAB_SIZE: sizes.vocab,
    }
    for key, value in expected.items():
        if found.get(key, value) != value:
            raise _invalid(file, f"{key} is {found[key]}, must be {value} by the other keys")
    return sizes


def _check_vocabulary(file: GgufFile, n_vocab: int) -> None:
    """Raise unless texts are unique, scores finite, types known, and there is one token for every byte."""
    tokens = file.metadata[keys.TOKENS]
    texts: list[str] = list(tokens) if isinstance(tokens, StringArray) else []
    scores = _scalars(file, keys.SCORES, "f32")
    types = _scalars(file, keys.TOKEN_TYPES, "i32")
    if not n_vocab == len(scores) == len(types):
        raise _invalid(
            file, f"the vocabulary has {n_vocab} tokens, {len(scores)} scores and {len(types)} types, must be one each"
        )
    if len(set(texts)) < n_vocab:
        raise _invalid(file, f"the vocabulary has {n_vocab} tokens, but only {len(set(texts))} different ones")
    for i, text in enumerate(texts):
        if not text or "\0" in text:  # llama.cpp renames an empty token and ends a text at its NUL
            raise _invalid(file, f"token {i} is {text[:64]!r}, must not be empty nor hold a NUL")
    for i, score in enumerate(scores):
        if not math.isfinite(score):
            raise _invalid(file, f"token {i} has the score {score}, must be finite")
    for i, kind in enumerate(types):
        if not NORMAL <= kind <= BYTE:
            raise _invalid(file, f"token {i} has the type {kind}, must be {NORMAL} to {BYTE}")
    byte_types = {text: kind for text, kind in zip(texts, types, strict=True) if kind == BYTE or text in BYTE_TEXTS}
    for text in sorted(BYTE_TEXTS | byte_types.keys()):
        if byte_types.get(text) != BYTE or text not in BYTE_TEXTS:
            raise _invalid(file, f"the byte tokens must be <0x00> to <0xFF> of type {BYTE}; {text[:64]!r} is not right")


def _check_special_ids(file: GgufFile, n_vocab: int) -> None:
    """Raise unless every key with a token id has one of the vocabulary, and the end of text has a key."""
    found = {key for key in file.metadata if key.startswith("tokenizer.ggml.") and key.endswith("_token_id")}
    for key in sorted(found | {keys.EOS}):
        _number(file, key, "u32", 0, n_vocab - 1)


def _check_id(file: GgufFile, key: str, token: int, n_vocab: int) -> None:
    if not 0 <= token < n_vocab:
        raise _invalid(file, f"{key} has the token id {token}, must be 0 to {n_vocab - 1}")
