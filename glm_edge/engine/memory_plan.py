"""How a model is put into memory: the weights once, and a context and batch size that fit beside them.

Repacked weights are 1.3 to 2 times as fast as mapped ones, but they are a copy: with the file mapped as well they
would be in memory twice. So two plans. Where the weights fit, they are read without a map and repacked. Where they do
not, the file is mapped and nothing is repacked: only the cache and the buffers must fit, and the system may drop pages.
Flash attention stays off unless asked for: its buffers are small, but it rounds otherwise, and which is faster depends
on the processor. It decodes at 0.98, 0.88 and 0.78 of the speed with 512, 2048 and 7168 tokens of context on AVX2 (one
thread), at 1.01, 1.02 and 0.88 (7680 tokens) with AVX-512 (two), where it reads prompts at 1.03; full size.
Pure: sizes and free memory come in as numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import OutOfMemoryError, UsageError
from ..model.checks import context_length, model_sizes
from ..model.tensors import Sizes
from ..model.values import GgufFile
from ..system.device import GIB
from ..types import LEAST_CTX, EngineConfig, LoadMode
from .prefix_cache.store import MEMORY

# ChatGLM2-6B was aligned for chat at this length. Its position encoding goes further; its answers get worse.
_DEFAULT_CTX = 8192
_USEFUL_CTX = 2048  # a shorter one is worse than mapped weights
_SMALLEST_CTX = 512  # the last try on a machine with little memory
# Limit of the compute buffers in bytes, unless memory is plentiful and batches would be smaller than _ENOUGH.
# Larger buffers gain little: batches of 64, 128, 256 and 512 read a prompt at 0.86, 0.93, 1.01 and 1 of the speed (one
# thread, processor time).
_COMPUTE = 176 << 20
_ENOUGH = 96  # tokens
_BATCHES = (512, 384, 256, 192, 128, 96, 64, 32)
_OWN = 84 << 20  # bytes of interpreter, libraries, vocabulary (twice: llama.cpp's and llguidance's), working buffers
_RESERVE = 64 << 20  # bytes that are left to other programs
# Bytes that must be left besides for huge pages. They lie within what is allocated, and counted; but to make them the
# kernel moves small ones, which it cannot do where all is taken.
_HUGE = 32 << 20


@dataclass(frozen=True)
class Weights:
    """The facts of a model file that decide how much memory it needs."""

    path: Path
    size: int  # bytes
    trained_ctx: int  # tokens
    sizes: Sizes


@dataclass(frozen=True)
class MemoryPlan:
    """How a model is loaded, and what that takes. The figures are bytes."""

    load_mode: LoadMode
    repack: bool
    huge: bool  # ask the system for huge pages
    n_ctx: int  # tokens
    n_batch: int  # tokens
    weights: int
    kv: int
    compute: int  # llama.cpp's buffers for one batch at the end of the context
    prefix_states: int  # states of prefixes outside of the KV cache
    available: int

    @property
    def total(self) -> int:
        """Upper bound of resident memory, our own included."""
        return self.weights + self.needed

    @property
    def needed(self) -> int:
        """What must be free besides the weights."""
        return self.kv + self.compute + self.prefix_states + _OWN

    @property
    def slow(self) -> bool:
        """Whether weights are read from the disk again for every token, because they do not fit into memory."""
        return self.total > self.available

    @property
    def warning(self) -> str:
        """The message to the user when the plan is `slow`."""
        return (
            f"the model needs {self.total / GIB:.2f} GiB of memory and {self.available / GIB:.2f} GiB are available:"
            " parts of it are read from the disk again for every token"
        )


def weights_of(file: GgufFile) -> Weights:
    """The Weights of a file that `check_model` has passed."""
    return Weights(file.path, file.size, context_length(file), model_sizes(file))


def sequence_count(slots: int) -> int:
    """Sequences of the KV cache in use: one for each slot, and the cached sequence of the last answer."""
    return slots + 1


def plan_memory(config: EngineConfig, weights: Weights, *, sequences: int, available: int) -> MemoryPlan:
    """The fastest plan that fits: repacked before mapped, then the longest context, unless one is asked for.

    Args:
        sequences: how many the cache has for answers. Each keeps a row of logits, and so does the context's spare one.
        available: bytes that this process can take.

    Raises OutOfMemoryError when not even mapped weights fit, UsageError for a context the model does not have.
    """
    lengths = _lengths(config, weights)
    ways = [(config.load_mode or "direct", n) for n in lengths if n >= min(lengths[0], _USEFUL_CTX)]
    if config.load_mode in (None, "mmap"):  # shorter contexts, too, before there is none
        ways += [("mmap", n) for n in lengths]
    for mode, n_ctx in ways:
        chosen = _sized(config, weights, mode, n_ctx, sequences, available)
        least = (chosen.needed if mode == "mmap" else chosen.total) + _RESERVE
        if least <= available:
            return chosen
    shorter = "ask for a shorter context with --ctx, or " if config.n_ctx is not None else ""
    raise OutOfMemoryError(
        f"{weights.path}: needs {least / GIB:.2f} GiB of memory with a context of {chosen.n_ctx} tokens,"
        f" and {available / GIB:.2f} GiB are available; {shorter}close other programs, or convert to a smaller type"
    )


def kv_bytes(sizes: Sizes, n_ctx: int, kv_type: str) -> int:
    """Keys and values of `n_ctx` tokens; 28 KiB a token for ChatGLM2-6B in f16."""
    return sizes.layers * 2 * sizes.groups * sizes.head * (4 if kv_type == "f32" else 2) * n_ctx


def compute_bytes(sizes: Sizes, n_ctx: int, n_batch: int, sequences: int, *, flash_attention: bool) -> int:
    """Upper bound of llama.cpp's compute and output buffers, once the context is full.

    The larger of two stages that share them: the feed-forward layers, and, without flash attention, the scores of
    every head and token against every cell, in f32 and once more in f16 as the product with the values takes them. The
    f16 copy is not in what llama.cpp reports; the rest is at most a quarter above that, for contexts of 1024 to 32768,
    batches of 64 to 512 and 1 to 34 sequences at ChatGLM2-6B's sizes.
    """
    feed_forward = n_batch * (14 * sizes.ffn + 16 * sizes.hidden + 3 * n_ctx)
    scores = 0 if flash_attention else n_batch * (n_ctx * (6 * sizes.heads + 24) + 12 * sizes.hidden)
    logits = 4 * sizes.vocab * max(sequences, 1)
    return max(feed_forward, scores, logits) + logits


def _lengths(config: EngineConfig, weights: Weights) -> list[int]:
    """Contexts to try, longest first: the one asked for; or the default, its half, and so on."""
    if config.n_ctx is not None:
        if not LEAST_CTX <= config.n_ctx <= weights.trained_ctx:
            raise UsageError(
                f"--ctx {config.n_ctx}: this model takes {LEAST_CTX} to {weights.trained_ctx} tokens of context"
            )
        return [config.n_ctx]
    lengths = [min(weights.trained_ctx, _DEFAULT_CTX)]
    while lengths[-1] // 2 >= _SMALLEST_CTX:
        lengths.append(lengths[-1] // 2)
    return lengths


def _sized(
    config: EngineConfig,
    weights: Weights,
    mode: LoadMode,
    n_ctx: int,
    sequences: int,
    available: int,
) -> MemoryPlan:
    """A plan with the largest batch whose buffers stay small."""
    flash = bool(config.flash_attention)

    def compute(n_batch: int) -> int:
        return compute_bytes(weights.sizes, n_ctx, n_batch, sequences + 1, flash_attention=flash)

    largest = min(config.n_batch or _BATCHES[0], n_ctx)
    sizes = [largest, *(n for n in _BATCHES if n < largest)]
    kv = kv_bytes(weights.sizes, n_ctx, config.kv_type)
    rest = available - weights.size - kv - MEMORY - _OWN
    small = (n for n in sizes if compute(n) <= max(_COMPUTE, rest // 4 if n <= _ENOUGH else 0))
    n_batch = max(next(small, sizes[-1]), config.slots)
    # without a cache folder all states stay in memory, so they get more where there is plenty
    states = MEMORY if config.cache_folder is not None else max(MEMORY, min(kv // 2, rest // 8))
    plan = MemoryPlan(
        mode, mode != "mmap", False, n_ctx, n_batch, weights.size, kv, compute(n_batch), states, available
    )
    return replace(plan, huge=config.huge_pages and plan.total + _HUGE + _RESERVE <= available)
