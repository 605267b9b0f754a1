"""Which types of ChatGLM2-6B fit this memory, and how fast they will be.

A token reads every weight but the embedding's once, so decode takes the sum, over the types, of weights times the
measured seconds a weight. A prompt takes the same sum for each of its tokens, without what only its last token needs:
the output matrix and, as llama.cpp computes it, the last layer's feed-forward matrices. What is neither, such as
attention over a short context, is a fixed share. Pure.
Measured on one thread in its processor time, prediction to bare loop for decode and for a prompt of 512 tokens: q4_0 at
full size 1.01 and 0.99; with two layers of full width edge 0.86 and 1.00, q8_0 0.88 and 1.02.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...convert.quantize.recipe import Recipe, Site
from ...convert.recipes import RECIPES
from ...engine.memory_plan import MemoryPlan, Weights, plan_memory, sequence_count
from ...errors import OutOfMemoryError
from ...model.ggml import block_size
from ...model.tensors import Sizes, expected_shapes
from ...model.values import TENSOR_TYPES, TensorInfo
from ...types import EngineConfig
from .probe import Rate

CHATGLM2_6B = Sizes(hidden=4096, ffn=13696, layers=28, heads=32, groups=2, vocab=65024)
TRAINED_CTX = 32768
# The recipes worth offering, the smallest first; those between them are hardly better.
OFFERED = ("q2_k", "edge-small", "q3_k_m", "edge", "q4_0", "q4_k_m", "edge-plus", "q5_k_m", "q6_k", "q8_0", "f16")
FOUR_BITS = ("edge", "q4_0", "q4_k_m")  # of about the same size and quality
# Types in the order of how much their speed matters to who chooses.
_MEASURED = ("q4_k", "q4_0", "iq4_nl", "q6_k", "q8_0", "q5_k", "q5_0", "q5_1", "f16", "q3_k", "q2_k")
_KINDS = {"token_embd": "embedding", "output_norm": "norm", "attn_norm": "norm", "ffn_norm": "norm"}
# What attention, norms and the engine take beside the products.
_DECODE_REST, _PREFILL_REST = 1.03, 1.10


@dataclass(frozen=True)
class Work:
    """Weights by type: those that every token needs, and those that only the last one of a prompt needs, too."""

    every: Mapping[str, int]
    last: Mapping[str, int]


@dataclass(frozen=True)
class Fit:
    """One type on this machine. Rates are tokens a second, None where not measured."""

    name: str
    size: int  # bytes of the file
    plan: MemoryPlan | None  # None: it does not fit
    work: Work
    decode: float | None = None
    prefill: float | None = None

    @property
    def facts(self) -> dict[str, object]:
        plan = self.plan
        return {
            "type": self.name,
            "bytes": self.size,
            "fits": plan is not None and not plan.slow,
            "repacked": plan is not None and plan.repack,
            "context": plan.n_ctx if plan is not None else None,
            "memory": plan.total if plan is not None else None,
            "decode_rate": self.decode,
            "prefill_rate": self.prefill,
        }


def fits(available: int) -> list[Fit]:
    """Every type that is offered, and how it goes into so many bytes of memory."""
    found = []
    for name in OFFERED:
        size = int(RECIPES[name].gigabytes * 1e9)
        weights = Weights(Path(name), size, TRAINED_CTX, CHATGLM2_6B)
        found.append(Fit(name, size, plan_of(weights, available), work_of_recipe(RECIPES[name])))
    return found


def plan_of(weights: Weights, available: int) -> MemoryPlan | None:
    """As chat and serve would plan it."""
    try:
        return plan_memory(EngineConfig(weights.path), weights, sequences=sequence_count(1), available=available)
    except OutOfMemoryError:
        return None


def work_of_recipe(recipe: Recipe) -> Work:
    """What ChatGLM2-6B needs in a recipe."""
    shapes = {name: shape for name, shape in expected_shapes(CHATGLM2_6B).items() if len(shape) == 2}
    counts = Counter(_kind(name) for name in shapes)
    seen: Counter[str] = Counter()
    sharing = CHATGLM2_6B.heads // CHATGLM2_6B.groups
    work: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for name, (columns, rows) in shapes.items():
        kind = _kind(name)
        site = Site(kind, columns, seen[kind], counts[kind], sharing)
        seen[kind] += 1
        if kind != "embedding":
            work[_is_last(name, CHATGLM2_6B.layers)][recipe.type_of(site, block_size)] += columns * rows
    return Work(work[False], work[True])


def work_of_file(tensors: Iterable[TensorInfo]) -> Work:
    """What the tensors of a file need."""
    work: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    matrices = [tensor for tensor in tensors if len(tensor.shape) == 2 and _kind(tensor.name) != "embedding"]
    layers = sum(_kind(tensor.name) == "ffn_down" for tensor in matrices)
    for tensor in matrices:
        work[_is_last(tensor.name, layers)][TENSOR_TYPES[tensor.type][0]] += tensor.shape[0] * tensor.shape[1]
    return Work(work[False], work[True])


def to_measure(found: Iterable[Fit]) -> list[tuple[str, bool]]:
    """Types and whether they will be repacked, of all that can run, in the order of their weight."""
    wanted = {
        (name, fit.plan.repack) for fit in found if fit.plan is not None for name in (*fit.work.every, *fit.work.last)
    }
    order = {name: i for i, name in enumerate(_MEASURED)}
    return sorted((one for one in wanted if one[0] in order), key=lambda one: (order[one[0]], not one[1]))


def timed(fit: Fit, measured: Mapping[tuple[str, bool], Rate]) -> Fit:
    """With its rates, where all its types were measured as they will be laid out, and the disk does not decide."""
    plan = fit.plan
    if plan is None or plan.slow:
        return fit
    found = rates_of(fit.work, {name: rate for (name, repack), rate in measured.items() if repack == plan.repack})
    return fit if found is None else replace(fit, decode=found[0], prefill=found[1])


def recommended(types: Iterable[Fit], prompt: int, answer: int) -> Fit | None:
    """The type of four bits that is fastest for a request of so many tokens; None where not all that fit have rates."""
    seconds: dict[str, float] = {}
    found = {fit.name: fit for fit in types if fit.name in FOUR_BITS and fit.plan is not None and not fit.plan.slow}
    for name, fit in found.items():
        if fit.prefill is None or fit.decode is None:
            return None
        seconds[name] = prompt / fit.prefill + answer / fit.decode
    return found[min(seconds, key=lambda name: seconds[name])] if seconds else None


def rates_of(work: Work, measured: Mapping[str, Rate]) -> tuple[float, float] | None:
    """Decode and prefill in tokens a second; None where a type was not measured."""
    decode = prefill = 0.0
    for part, in_prompts in ((work.every, True), (work.last, False)):
        for name, weights in part.items():
            rate = measured.get(name)
            if rate is None:
                return None
            decode += weights * rate.decode
            prefill += weights * rate.prefill if in_prompts else 0.0
    return 1 / (decode * _DECODE_REST), 1 / (prefill * _PREFILL_REST)


def _is_last(name: str, layers: int) -> bool:
    """Whether only the last token of a prompt needs the tensor."""
    return name == "output.weight" or name.startswith(f"blk.{layers - 1}.ffn_")


def _kind(name: str) -> str:
    """The kind of a tensor, as recipes call it: "attn_qkv" for "blk.3.attn_qkv.weight"."""
    kind = name.split(".")[-2]
    return _KINDS.get(kind, kind)
