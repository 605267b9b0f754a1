"""What is changed in llama.cpp's source before it is built: how its threads wait, and how AMX multiplies several rows.

Without OpenMP, threads spin until the last one comes, and never give way. While another program has the processor of
the last one, the others burn theirs: with the demo on two busy cores an answer took 27 s for 0.5 with GCC's OpenMP
(others measured 0.12 tokens/s for 10.1 on a Raspberry Pi 5: ggml-org/llama.cpp pull request 13079). So who has waited
for 1,000 turns sleeps in the kernel until the last one wakes it, as OpenMP does it.

`amx_panels.h` has what AMX runs instead of llama.cpp's loop: the same bits in less time. Full size, q4_0, two threads
of a Xeon, one run: 255 tokens of prompt took 0.61 of the time, 85 took 0.60, 8 rows 0.77, a single one as long.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import NamedTuple

from ...errors import IntegrityError

_FOLDER = "vendor/llama.cpp/ggml/src/ggml-cpu"
PATCHED = f"{_FOLDER}/ggml-cpu.c"
PATCHED_AMX = f"{_FOLDER}/amx/mmq.cpp"
PANELS = Path(__file__).with_name("amx_panels.h")


class Change(NamedTuple):
    """Text of a file, what takes its place, and how often the file has it."""

    old: str
    new: str
    times: int = 1


# A waiter counts itself before the kernel compares n_barrier_passed, and the last one changes n_barrier_passed before
# it reads the count: nobody sleeps on.
_BARRIER = (
    Change(
        """
void ggml_barrier(struct ggml_threadpool * tp) {
""",
        """
#include <linux/futex.h>
#include <sys/syscall.h>

static atomic_int n_asleep; // in barriers, of any pool

void ggml_barrier(struct ggml_threadpool * tp) {
""",
    ),
    Change(
        """
        atomic_fetch_add_explicit(&tp->n_barrier_passed, 1, memory_order_seq_cst);
        return;
""",
        """
        atomic_fetch_add_explicit(&tp->n_barrier_passed, 1, memory_order_seq_cst);
        if (atomic_load(&n_asleep) > 0) {
            syscall(SYS_futex, &tp->n_barrier_passed, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
        }
        return;
""",
    ),
    Change(
        """
    while (atomic_load_explicit(&tp->n_barrier_passed, memory_order_relaxed) == n_passed) {
        ggml_thread_cpu_relax();
    }
""",
        """
    for (int turn = 0; atomic_load_explicit(&tp->n_barrier_passed, memory_order_relaxed) == n_passed; turn++) {
        if (turn < 1000) {
            ggml_thread_cpu_relax();
            continue;
        }
        atomic_fetch_add(&n_asleep, 1);
        syscall(SYS_futex, &tp->n_barrier_passed, FUTEX_WAIT_PRIVATE, n_passed, NULL, NULL, 0);
        atomic_fetch_sub(&n_asleep, 1);
    }
""",
    ),
)
_AMX = (
    Change(
        """
#include <algorithm>
#include <type_traits>
""",
        """
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>
""",
    ),
    Change(
        """
} // anonymous namespace
""",
        """
#include "amx_panels.h"

} // anonymous namespace
""",
    ),
    Change(
        """
    return desired_wsize;
""",
        """
    return std::max(desired_wsize, panel_work(dst));
""",
    ),
    Change(
        """
    // pointer to work space, used convert A from float to quantized type
""",
        """
    if (panel_mul_mat(params, dst)) {
        return;
    }

    // pointer to work space, used convert A from float to quantized type
""",
    ),
    # a single row, each type's kernel: weights are fetched 2 KiB before they are computed, as in amx_panels.h
    Change(
        """
            const char * b_ptr = B + PACKED_INDEX(col, i, KB, TILE_SIZE);
""",
        """
            const char * b_ptr = B + PACKED_INDEX(col, i, KB, TILE_SIZE);
            for (int ahead = 2048; ahead < 2048 + TILE_SIZE; ahead += 64) {
                _mm_prefetch(b_ptr + ahead, _MM_HINT_T0);
            }
""",
        7,
    ),
)
_CHANGES = {PATCHED: _BARRIER, PATCHED_AMX: _AMX}

NAME = hashlib.sha256(repr(_CHANGES).encode() + PANELS.read_bytes()).hexdigest()[:12]


def patch(source: Path) -> None:
    """Change the files in the folder of llama-cpp-python's source. Raises IntegrityError, and changes none, if one is
    not as expected."""
    texts = {name: _changed(source / name, changes) for name, changes in _CHANGES.items()}
    for name, text in texts.items():
        (source / name).write_text(text, "utf-8")
    shutil.copyfile(PANELS, (source / PATCHED_AMX).with_name(PANELS.name))


def _changed(path: Path, changes: tuple[Change, ...]) -> str:
    text = path.read_text("utf-8")
    for change in changes:
        if text.count(change.old) != change.times:
            raise IntegrityError(f"{path}: is not the file that is to be changed; see {__name__}")
        text = text.replace(change.old, change.new)
    return text
