"""The tensors of a ChatGLM2 model in a GGUF file: their names and shapes, as llama.cpp's `chatglm` graph expects them.

The converter writes exactly these, and the engine refuses a file that has others. Source: llama.cpp
`src/models/chatglm.cpp`, less what ChatGLM2 does not have: separate or missing biases, tied embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .values import TENSOR_TYPES, TensorInfo

# Types for which the kernels have no matrix product.
NOT_FOR_WEIGHTS = frozenset({"q8_1", "q8_k", "i8", "i16", "i32", "i64", "f64"})


@dataclass(frozen=True)
class Sizes:
    """The numbers of a model that its shapes are made of."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    groups: int  # heads of keys and values
    vocab: int

    @property
    def head(self) -> int:
        """Length of one head's query, key and value."""
        return self.hidden // self.heads


def expected_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor by name, in the order of the file. A shape is in ggml's order: the length of a row first."""
    hidden, ffn = sizes.hidden, sizes.ffn
    qkv = hidden + 2 * sizes.groups * sizes.head
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (hidden, sizes.vocab)}
    for n in range(sizes.layers):
        shapes |= {
            f"blk.{n}.attn_norm.weight": (hidden,),
            # rows: queries of every head, then keys of every group, then values of every group
            f"blk.{n}.attn_qkv.weight": (hidden, qkv),
            f"blk.{n}.attn_qkv.bias": (qkv,),
            f"blk.{n}.attn_output.weight": (hidden, hidden),
            f"blk.{n}.ffn_norm.weight": (hidden,),
            f"blk.{n}.ffn_up.weight": (hidden, 2 * ffn),  # gate rows first
            f"blk.{n}.ffn_down.weight": (ffn, hidden),
        }
    return shapes | {"output_norm.weight": (hidden,), "output.weight": (hidden, sizes.vocab)}


def tensor_problems(tensors: Iterable[TensorInfo], sizes: Sizes) -> list[str]:
    """A sentence for each tensor that is missing, unknown, or of a wrong shape or type."""
    expected = expected_shapes(sizes)
    found = {tensor.name: tensor for tensor in tensors}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} does not belong there" for name in found if name not in expected]
    for name, tensor in found.items():
        if name in expected and (problem := _problem(tensor, expected[name])):
            problems.append(problem)
    return problems


def _problem(tensor: TensorInfo, shape: tuple[int, ...]) -> str | None:
    type_name = TENSOR_TYPES[tensor.type][0]
    if tensor.shape != shape:
        return f"{tensor.name} has the shape {tensor.shape}, must be {shape}"
    if len(shape) == 1 and type_name != "f32":  # the graph multiplies norms and adds biases as f32
        return f"{tensor.name} has the type {type_name}, must be f32"
    if type_name in NOT_FOR_WEIGHTS:
        return f"{tensor.name} has the type {type_name}, which holds no weights"
    return None
