"""A LoRA folder of PEFT, merged into the tensors of a checkpoint while their rows are read.

Merged weight = weight + scaling x B @ A, where scaling is lora_alpha / r (or / sqrt(r) with `use_rslora`), computed in
float64 and rounded once. Settings that would change the model in any other way (biases, DoRA, ranks by pattern, whole
modules, embeddings) are refused. Format and formula: https://github.com/huggingface/peft, `src/peft/tuners/lora/`,
`config.py` and `layer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import Checkpoint, SourceTensor, file_of
from .files import StableFile, inside, is_plain, names_in, raise_all, read_json, shown
from .safetensors import open_safetensors
from .shard import StoredTensor, open_shard
from .storage import FLOATS

CONFIG = "adapter_config.json"
SAFETENSORS, BIN = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."  # PEFT's wrappers around the model
A, B = ".lora_A.weight", ".lora_B.weight"
EMBEDDING = "word_embeddings"
MAX_RANK = 1024
_TILE = 1 << 15  # values: a tile of float64, and its product with one row of A, stay in the processor's cache

# Settings of the training that do not change the result. fan_in_fan_out is among them: PEFT turns it off for
# torch.nn.Linear, which all modules of ChatGLM2 are.
_TRAINING = frozenset(
    ("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
     "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
     "megatron_core", "merge_weights", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type")
)  # fmt: skip
_READ = frozenset(("bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "target_modules", "use_rslora"))
# Initialisations that do not change the base weights, as pissa, olora, loftq and others do.
_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class MergedTensor:
    """A matrix of the checkpoint with its LoRA added (a SourceTensor)."""

    base: SourceTensor
    a: StoredTensor  # (r, columns)
    b: StoredTensor  # (rows, r)
    scaling: float

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def dtype(self) -> str:
        return self.base.dtype

    @property
    def parts(self) -> tuple[StoredTensor, ...]:
        return *self.base.parts, self.a, self.b

    def decode(self, raw: memoryview, start: int) -> NDArray[np.float32]:
        """The merged rows from `start` on, where `raw` are the stored bytes of the base's rows.

        Terms are added one after the other, each rounded: the sum of a BLAS product depends on the machine and on how
        many rows are asked for. Raises as reading A and B does.
        """
        base = self.base.decode(raw, start)
        rows = np.empty_like(base)
        a = self.a.read_rows(0, self.a.rows).astype(np.float64)
        b = self.b.read_rows(start, start + len(base)).astype(np.float64)
        step = max(1, _TILE // a.shape[1])
        with np.errstate(all="ignore"):  # `blocks.py` refuses what is not finite, and says where
            for first in range(0, len(rows), step):
                tile = b[first : first + step]
                total = tile[:, :1] * a[0]
                product = np.empty_like(total)
                for k in range(1, len(a)):
                    np.multiply(tile[:, k, None], a[k], out=product)
                    total += product
                total *= self.scaling
                total += base[first : first + step]
                rows[first : first + step] = total
        return rows

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) as float32, shape (stop - start, columns). Raises as those of the parts do."""
        return self.decode(self.parts[0].read_raw(start, stop), start)


def merge_lora(source: Checkpoint, folder: Path) -> Checkpoint:
    """The checkpoint with the LoRA in `folder` merged into it; reads no weights.

    Raises StorageError if the folder cannot be read, InvalidFileError if its files are missing, broken or do not fit
    the checkpoint. The error lists everything that does not fit.
    """
    names = names_in(folder, f"a LoRA, with its {CONFIG}")
    file = StableFile.find(inside(folder, CONFIG))
    config = read_json(file.path)
    weights = inside(folder, BIN if BIN in names and SAFETENSORS not in names else SAFETENSORS)
    stored = open_shard(weights, verify=True) if weights.name == BIN else open_safetensors(weights)
    problems: list[str] = []
    rank, scaling = _scaling(config, problems)
    _refuse_other_settings(config, problems)
    pairs = _pairs(stored, source.tensors, problems)
    for name, (a, b) in pairs.items():
        _compare_shapes(source.tensors[name], a, b, rank or a.rows, problems)
    _compare_targets(config, source.tensors, stored, problems)
    raise_all(folder, problems)
    merged = {name: MergedTensor(source.tensors[name], a, b, scaling) for name, (a, b) in pairs.items()}
    return replace(source, tensors={**source.tensors, **merged}, files=(*source.files, file, file_of(weights, stored)))


def _scaling(config: dict[str, Any], problems: list[str]) -> tuple[int, float]:
    """(r, the factor of B @ A). One that the config does not tell is 0, and a problem is added."""
    rank, alpha, root = config.get("r"), config.get("lora_alpha"), config.get("use_rslora", False)
    if not isinstance(root, bool):
        problems.append(f"{CONFIG}: use_rslora is {shown(root)} where true or false is expected")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        problems.append(f"{CONFIG}: r is {shown(rank)}, not an integer from 1 to {MAX_RANK}")
        rank = 0
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha <= 1e6:
        problems.append(f"{CONFIG}: lora_alpha is {shown(alpha)}, not a number above 0, up to 1e6")
        return rank, 0.0
    return rank, alpha / (math.sqrt(rank) if root is True else rank) if rank else 0.0


def _refuse_other_settings(config: dict[str, Any], problems: list[str]) -> None:
    """Adds a problem for each setting with which the result is not weight + scaling x B @ A."""
    if config.get("peft_type") != "LORA":
        problems.append(f"{CONFIG}: peft_type is {shown(config.get('peft_type'))}; only LORA can be merged")
    if config.get("bias", "none") != "none":
        problems.append(
            f"{CONFIG}: bias is {shown(config['bias'])}; only a LoRA that leaves biases alone can be merged"
        )
    if config.get("init_lora_weights") not in _INITIALISATIONS:
        how = shown(config["init_lora_weights"])
        problems.append(f"{CONFIG}: init_lora_weights is {how}, which changes the base; save the LoRA converted")
    for key in sorted(set(config) - _TRAINING - _READ):
        if config[key] not in (None, False, "", [], {}):
            name = key if is_plain(key) else shown(key)
            problems.append(f"{CONFIG}: {name} is {shown(config[key])}, which cannot be merged")


def _pairs(
    stored: Mapping[str, StoredTensor], tensors: Mapping[str, SourceTensor], problems: list[str]
) -> dict[str, tuple[StoredTensor, StoredTensor]]:
    """(A, B) by the name of the checkpoint's tensor that they change. Adds a problem for each that fits none."""
    if not stored:
        problems.append("its weights file has no tensors")
    pairs = {}
    for name, tensor in stored.items():
        target = f"{name.removeprefix(PREFIX).removesuffix(A).removesuffix(B)}.weight"
        a, b = (stored.get(f"{PREFIX}{target.removesuffix('.weight')}{part}") for part in (A, B))
        if EMBEDDING in name:
            problems.append(f"{name}: a LoRA of the word embeddings cannot be merged; train one without")
        elif tensor is not a and tensor is not b:
            problems.append(f"{name} is not {PREFIX}MODULE{A} or {B.removeprefix('.')}")
        elif target not in tensors:
            problems.append(f"{name} is for {target}, which the checkpoint does not have")
        elif a is None or b is None:
            problems.append(f"{name} is there without its {(A if a is None else B).removeprefix('.')}")
        else:
            pairs[target] = (a, b)
    return pairs


def _compare_shapes(base: SourceTensor, a: StoredTensor, b: StoredTensor, rank: int, problems: list[str]) -> None:
    if len(base.shape) != 2:
        problems.append(f"{a.name} is for {base.name}, which is no matrix")
        return
    for part, shape in ((a, (rank, base.shape[1])), (b, (base.shape[0], rank))):
        if part.shape != shape:
            problems.append(f"{part.name} has shape {part.shape} where r and the checkpoint make it {shape}")
        if part.dtype not in FLOATS:
            problems.append(f"{part.name} holds {part.dtype} where weights are f32, f16 or bf16")


def _compare_targets(
    config: dict[str, Any],
    tensors: Mapping[str, SourceTensor],
    stored: Mapping[str, StoredTensor],
    problems: list[str],
) -> None:
    """Adds a problem for each module that `target_modules` names and the weights file lacks."""
    targets = config.get("target_modules")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        if not isinstance(targets, str):  # text is a regular expression or "all-linear", which is not checked
            problems.append(f"{CONFIG}: target_modules is {shown(targets)} where names of modules are expected")
        return
    if EMBEDDING in targets:
        problems.append(f"{CONFIG}: target_modules has {EMBEDDING}, whose LoRA cannot be merged; train one without")
    if config.get("layers_to_transform") is not None or config.get("exclude_modules"):
        return
    ends = tuple(f".{target}.weight" for target in targets if target != EMBEDDING)
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if (
            len(tensor.shape) == 2
            and name.endswith(ends)
            and not {f"{PREFIX}{module}{x}" for x in (A, B)} & set(stored)
        ):
            problems.append(f"{name} is among the target_modules and has no LoRA")
