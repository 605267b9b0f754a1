"""LoRA folders and quantized checkpoints, made from the small checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.checkpoints.safetensors_writer import write_safetensors
from support.checkpoints.small_checkpoint import random_weights, shapes
from support.checkpoints.torch_writer import write_shard

Weights = dict[str, NDArray[Any]]
PREFIX = "base_model.model."

# As peft 0.18 writes it
CONFIG: dict[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "THUDM/chatglm2-6b", "bias": "none", "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False,
    "inference_mode": True, "init_lora_weights": True, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 32, "lora_bias": False, "lora_dropout": 0.1,
    "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA",
    "peft_version": "0.18.0", "qalora_group_size": 16, "r": 4, "rank_pattern": {}, "revision": None,
    "target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"], "target_parameters": None,
    "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_dora": False, "use_qalora": False,
    "use_rslora": False,
}  # fmt: skip


def lora_weights(targets: list[str] = CONFIG["target_modules"], rank: int = 4, dtype: Any = np.float32) -> Weights:
    draw = np.random.default_rng(rank)
    found: Weights = {}
    for name, shape in shapes().items():
        module = name.removesuffix(".weight")
        if len(shape) == 2 and module.split(".")[-1] in targets:
            found[f"{PREFIX}{module}.lora_A.weight"] = draw.standard_normal((rank, shape[1])).astype(dtype)
            found[f"{PREFIX}{module}.lora_B.weight"] = (0.01 * draw.standard_normal((shape[0], rank))).astype(dtype)
    return found


def write_lora(folder: Path, weights: Weights, config: dict[str, Any] = CONFIG, *, torch: bool = False) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if torch:
        write_shard(folder / "adapter_model.bin", weights)
    else:
        write_safetensors(folder / "adapter_model.safetensors", weights)
    return folder


def quantized(bits: int) -> Weights:
    """Random weights of the small model as the official code stores them: packed integers and scales."""
    draw = np.random.default_rng(bits)
    found: Weights = {}
    for name, value in random_weights().items():
        if value.ndim != 2 or ".layers." not in name:
            found[name] = value
            continue
        rows, columns = value.shape
        found[name] = draw.integers(-128, 128, (rows, columns * bits // 8)).astype(np.int8)
        found[f"{name}_scale"] = (0.01 * draw.standard_normal(rows)).astype(np.float16)
    return found
