"""How a model is put into memory: a table of machines, and the numbers behind it."""

from dataclasses import replace
from pathlib import Path

import pytest

from glm_edge.engine.memory_plan import Weights, compute_bytes, kv_bytes, plan_memory
from glm_edge.errors import OutOfMemoryError, UsageError
from glm_edge.model.tensors import Sizes
from glm_edge.types import EngineConfig, LoadMode

GIB, MIB = 1 << 30, 1 << 20
SIZES = Sizes(hidden=4096, ffn=13696, layers=28, heads=32, groups=2, vocab=65024)
Q4_0 = Weights(Path("m.gguf"), 3_583_417_280, 32768, SIZES)  # ChatGLM2-6B
Q8_0 = replace(Q4_0, size=6_640_000_000)
SMALL = replace(Q4_0, size=30 * MIB, trained_ctx=2048)
CONFIG = EngineConfig(Path("m.gguf"))

# weights, what is asked for, GiB available -> load mode, context, batch
PLANS: dict[str, tuple[Weights, dict[str, object], float, LoadMode, int, int]] = {
    "plenty": (Q4_0, {}, 16, "direct", 8192, 96),
    "just enough": (Q4_0, {}, 3.98, "direct", 8192, 96),
    "a shorter context before slower weights": (Q4_0, {}, 3.80, "direct", 4096, 192),
    "the shortest that is useful": (Q4_0, {}, 3.70, "direct", 2048, 256),
    "mapped": (Q4_0, {}, 3.5, "mmap", 8192, 96),
    "mapped, hardly any left": (Q4_0, {}, 0.4, "mmap", 2048, 256),
    "8 bits on 8 GB": (Q8_0, {}, 7, "direct", 8192, 96),
    "8 bits on 6 GB": (Q8_0, {}, 5, "mmap", 8192, 96),
    "asked for": (Q4_0, {"n_ctx": 32768}, 16, "direct", 32768, 96),
    "asked for, repacked does not fit": (Q4_0, {"n_ctx": 32768}, 4, "mmap", 32768, 32),
    "flash attention": (Q4_0, {"flash_attention": True}, 16, "direct", 8192, 512),
    "smaller batches": (Q4_0, {"n_batch": 48}, 16, "direct", 8192, 48),
    "larger batches than fit": (Q4_0, {"n_batch": 512}, 16, "direct", 8192, 96),
    "mapped by wish": (Q4_0, {"load_mode": "mmap"}, 16, "mmap", 8192, 96),
    "the model's own length": (SMALL, {}, 16, "direct", 2048, 256),
}


@pytest.mark.parametrize(("weights", "asked", "gib", "mode", "n_ctx", "n_batch"), PLANS.values(), ids=PLANS)
def test_plan_is_the_fastest_that_fits(
    weights: Weights, asked: dict[str, object], gib: float, mode: LoadMode, n_ctx: int, n_batch: int
) -> None:
    config = replace(CONFIG, **asked)  # type: ignore[arg-type]
    found = plan_memory(config, weights, sequences=18, available=int(gib * GIB))
    assert found.total + MIB <= found.available or mode == "mmap"
    assert (found.load_mode, found.n_ctx, found.n_batch) == (mode, n_ctx, n_batch)
    assert found.repack == (mode != "mmap")
    assert found.slow == (mode == "mmap" and found.total > found.available)


@pytest.mark.parametrize(
    ("asked", "gib", "huge"),
    [
        ({}, 16, True),
        ({}, 3.92, False),
        ({}, 2, False),
        ({"load_mode": "mmap"}, 16, True),
        ({"huge_pages": False}, 16, False),
    ],
    ids=["plenty", "just enough", "read from the disk", "mapped", "switched off"],
)
def test_huge_pages_only_where_memory_allows(asked: dict[str, object], gib: float, huge: bool) -> None:
    config = replace(CONFIG, **asked)  # type: ignore[arg-type]
    assert plan_memory(config, Q4_0, sequences=5, available=int(gib * GIB)).huge == huge


def test_peak_at_8192_tokens_stays_within_300_mb_of_file_and_cache() -> None:
    found = plan_memory(replace(CONFIG, cache_folder=Path("cache")), Q4_0, sequences=5, available=16 * GIB)
    assert found.n_ctx == 8192
    assert found.kv == 224 * MIB
    assert found.total - found.weights - found.kv <= 300_000_000


@pytest.mark.parametrize(
    ("asked", "gib", "message"),
    [
        ({}, 0.2, r"m.gguf: needs 0\.\d\d GiB of memory with a context of 512 tokens, and 0\.20 GiB are available"),
        (
            {"n_ctx": 32768},
            1,
            r"context of 32768 tokens, and 1\.00 GiB are available; ask for a shorter context with --ctx",
        ),
        ({"load_mode": "direct"}, 3, r"needs 3\.\d\d GiB of memory with a context of 2048 tokens, and 3\.00 GiB"),
    ],
    ids=["default", "long context", "repacked by wish"],
)
def test_what_does_not_fit_is_refused_with_both_numbers(asked: dict[str, object], gib: float, message: str) -> None:
    with pytest.raises(OutOfMemoryError, match=message):
        plan_memory(replace(CONFIG, **asked), Q4_0, sequences=18, available=int(gib * GIB))  # type: ignore[arg-type]


@pytest.mark.parametrize("n_ctx", [0, 63, 32769])
def test_context_outside_the_model_or_too_small_for_an_answer_is_refused(n_ctx: int) -> None:
    with pytest.raises(UsageError, match="64 to 32768"):
        plan_memory(replace(CONFIG, n_ctx=n_ctx), Q4_0, sequences=1, available=GIB)


def test_prefixes_take_more_memory_where_no_folder_takes_them_and_there_is_plenty() -> None:
    asides = [
        plan_memory(replace(CONFIG, cache_folder=folder), Q4_0, sequences=5, available=int(gib * GIB)).prefix_states
        // MIB
        for folder in (None, Path("cache"))
        for gib in (16, 4)
    ]
    assert asides == [112, 42, 32, 32]


def test_batch_has_room_for_every_slot() -> None:
    config = replace(CONFIG, slots=40, n_ctx=32768)
    assert plan_memory(config, Q4_0, sequences=57, available=5 * GIB).n_batch == 40


# What llama.cpp (0c1e57098) reports in MiB for ChatGLM2-6B: flash attention, context, batch, sequences -> compute
REPORTED = [
    (False, 1024, 64, 18, 15.08),
    (False, 1024, 512, 18, 109.35),
    (False, 4096, 256, 18, 152.41),
    (False, 8192, 64, 1, 69.13),
    (False, 8192, 64, 34, 73.45),
    (False, 8192, 128, 18, 155.53),
    (False, 8192, 256, 1, 276.50),
    (False, 8192, 512, 18, 563.81),
    (False, 32768, 256, 18, 1126.94),
    (True, 1024, 64, 18, 14.80),
    (True, 8192, 128, 34, 29.82),
    (True, 8192, 512, 18, 114.45),
    (True, 32768, 512, 18, 138.92),
]


@pytest.mark.parametrize(("flash", "n_ctx", "n_batch", "sequences", "mib"), REPORTED)
def test_compute_buffers_are_bounded_closely(flash: bool, n_ctx: int, n_batch: int, sequences: int, mib: float) -> None:
    bound = compute_bytes(SIZES, n_ctx, n_batch, sequences, flash_attention=flash)
    known = 4 * SIZES.vocab * sequences
    if not flash and n_ctx > 1024:  # scores are the larger stage: their f16 copy is not in the report
        known += n_batch * n_ctx * SIZES.heads * 2
    assert mib * MIB <= bound - known <= 1.25 * mib * MIB


def test_cache_is_28_kib_a_token() -> None:
    assert kv_bytes(SIZES, 1, "f16") == 28 << 10
    assert kv_bytes(SIZES, 10, "f32") == 2 * kv_bytes(SIZES, 10, "f16")
