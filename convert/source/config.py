"""config.json of a ChatGLM2 checkpoint: every assumption of the architecture is checked by name.

The keys are those of `configuration_chatglm.py` and `modeling_chatglm.py` of THUDM/chatglm2-6b. Not here: whether the
tensors have the shapes that follow from it (`tensors.py`).

ChatGLM3 has the same keys, shapes and `model_type`, but another prompt. Its name and its tokenizer's settings tell it
apart. A fine-tuned ChatGLM3 that keeps neither is taken for a ChatGLM2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_edge.errors import InvalidFileError, UnsupportedModelError

from .files import inside, is_plain, raise_all, read_json, read_small, shown

# Key -> largest value: far above any ChatGLM2, and too small for shapes made of it to overflow 64 bits.
_SIZES = {
    "hidden_size": 1 << 16,
    "num_layers": 512,  # llama.cpp's LLAMA_MAX_LAYERS
    "num_attention_heads": 1024,
    "kv_channels": 1024,
    "multi_query_group_num": 1024,
    "ffn_hidden_size": 1 << 20,
    "padded_vocab_size": 1 << 20,
    "seq_length": 1 << 20,
}
# What llama.cpp's `chatglm` graph computes. Any other value is another model.
_FIXED = {
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "multi_query_attention": True,
    "original_rope": True,
    "post_layer_norm": True,
    "rmsnorm": True,
}
_FIXED_WHERE_PRESENT = {
    "eos_token_id": 2,
    "interleaved_qkv": False,
    "pre_seq_len": None,  # P-tuning prefixes
    "prefix_projection": False,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of a checkpoint that is known to be a ChatGLM2."""

    name: str  # last part of _name_or_path, lower case ("chatglm2-6b"); without it, the folder's name
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    kv_channels: int  # length of one head's query, key and value
    multi_query_group_num: int  # how many heads of keys and values there are
    ffn_hidden_size: int
    padded_vocab_size: int
    seq_length: int  # tokens
    layernorm_epsilon: float
    rope_ratio: float  # 1.0 without the key. chatglm2-6b-32k divides positions by it
    quantization_bit: int  # 0 (floating point), 4 or 8


def read_config(path: Path) -> ModelConfig:
    """Read the config.json at `path`, and tokenizer_config.json beside it where there is one.

    Raises InvalidFileError when it is not strict JSON, lacks a key or holds a value of the wrong type or range,
    UnsupportedModelError when it describes another model.
    """
    config = read_json(path)
    _refuse_other_models(path, config)
    problems: list[str] = []
    sizes = {key: _integer(config, key, 1, highest, problems) for key, highest in _SIZES.items()}
    epsilon = _number(config, "layernorm_epsilon", 1e-12, 0.1, problems)
    rope_ratio = _number({"rope_ratio": 1, **config}, "rope_ratio", 1e-6, 1e6, problems)
    bits = 0
    if config.get("quantization_bit") is not None:
        bits = _integer(config, "quantization_bit", 0, 32, problems)
    problems += [f"{key} is missing" for key in _FIXED if key not in config]
    problems += [
        f"{key} is {shown(config[key])} where true or false is expected"
        for key in _FIXED
        if key in config and not isinstance(config[key], bool)
    ]
    name = config.get("_name_or_path", "")
    if not isinstance(name, str):
        problems.append(f"_name_or_path is {shown(name)} where text is expected")
    raise_all(path, problems)
    _refuse_other_values(path, config, sizes, bits)
    return ModelConfig(
        name=_last_part(name) or _last_part(path.resolve().parent.name) or "chatglm2",
        layernorm_epsilon=epsilon,
        rope_ratio=rope_ratio,
        quantization_bit=bits,
        **sizes,
    )


def _refuse_other_models(path: Path, config: dict[str, Any]) -> None:
    """Raise UnsupportedModelError, which says what it is, for a checkpoint of another model."""
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise InvalidFileError(f"{path}: model_type is {shown(kind)}, which no checkpoint has; is this another config?")
    what = None
    if kind != "chatglm":
        what = f"a model of type {shown(kind)}"
    elif "inner_hidden_size" in config or "position_encoding_2d" in config:
        what = "a ChatGLM-6B, the first generation"
    else:
        what = _later_generation(config.get("_name_or_path")) or _later_generation_by_tokenizer(path.parent)
    if what:
        raise UnsupportedModelError(f"{path}: {what}; only ChatGLM2 can be converted")


def _later_generation(name: object) -> str | None:
    """The later generation that a name (a hub id or the path of a training) tells of; None if it tells of none."""
    if not isinstance(name, str) or "chatglm2" in name.lower():
        return None
    found = re.search(r"glm-?([34])(?!\d)", name.lower())
    return f"a {'ChatGLM3' if found[1] == '3' else 'GLM-4'} (by its name, {shown(name)})" if found else None


def _later_generation_by_tokenizer(folder: Path) -> str | None:
    path = inside(folder, "tokenizer_config.json")
    if not path.exists():
        return None
    # Their templates mark each turn with the role, <|user|>, which ChatGLM2 does not know.
    if any(mark in read_small(path, 1 << 20) for mark in (b"<|user|>", b"<|{{")):
        return "a ChatGLM3 or GLM-4 (tokenizer_config.json has their role tokens)"
    return _later_generation(read_json(path).get("name_or_path"))


def _refuse_other_values(path: Path, config: dict[str, Any], sizes: dict[str, int], bits: int) -> None:
    """Raise UnsupportedModelError for a configuration that is well formed but not of this architecture."""
    present = {key: value for key, value in _FIXED_WHERE_PRESENT.items() if key in config}
    differing = [
        f"{key} is {shown(config[key])} and has to be {shown(value)}"
        for key, value in {**_FIXED, **present}.items()
        if config[key] != value or isinstance(config[key], bool) != isinstance(value, bool)
    ]
    heads, groups, head = (sizes[key] for key in ("num_attention_heads", "multi_query_group_num", "kv_channels"))
    if heads % groups:
        differing.append(f"multi_query_group_num {groups} does not divide num_attention_heads {heads}")
    if heads * head != sizes["hidden_size"]:
        differing.append(
            f"hidden_size {sizes['hidden_size']} is not num_attention_heads x kv_channels, {heads} x {head}"
        )
    if head % 4:  # half of the channels are rotated, in pairs
        differing.append(f"kv_channels {head} is not a multiple of 4")
    if bits not in (0, 4, 8):
        differing.append(f"quantization_bit is {bits} and has to be 0, 4 or 8")
    if differing:
        raise UnsupportedModelError(f"{path}: not the ChatGLM2 architecture: {'; '.join(differing)}")


def _integer(config: dict[str, Any], key: str, lowest: int, highest: int, problems: list[str]) -> int:
    value = config.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
        return value
    problems.append(
        f"{key} is missing"
        if key not in config
        else f"{key} is {shown(value)}, not an integer from {lowest} to {highest}"
    )
    return lowest


def _number(config: dict[str, Any], key: str, lowest: float, highest: float, problems: list[str]) -> float:
    value = config.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest:
        return float(value)
    problems.append(
        f"{key} is missing"
        if key not in config
        else f"{key} is {shown(value)}, not a number from {lowest:g} to {highest:g}"
    )
    return highest


def _last_part(name: str) -> str:
    """ "chatglm2-6b" of "THUDM/chatglm2-6b" or of a path; empty when nothing usable is left."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
    return parts[-1].lower() if parts and is_plain(parts[-1]) else ""
