"""What is changed in llama.cpp's source before it is built: how its threads wait for each other.

Without OpenMP they spin until the last one comes, and never give way. While another program has the processor of the
last one, the others burn theirs: with the demo on two busy cores an answer took 27 s for 0.5 with GCC's OpenMP (others
measured 0.12 tokens/s for 10.1 on a Raspberry Pi 5: ggml-org/llama.cpp pull request 13079). So who has waited
for 1,000 turns sleeps in the kernel until the last one wakes it, as OpenMP does it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...errors import IntegrityError

PATCHED = "vendor/llama.cpp/ggml/src/ggml-cpu/ggml-cpu.c"

# Text that is in the file once -> what takes its place. A waiter counts itself before the kernel compares
# n_barrier_passed, and the last one changes n_barrier_passed before it reads the count: nobody sleeps on.
_CHANGES = {
    """
void ggml_barrier(struct ggml_threadpool * tp) {
""": """
#include <linux/futex.h>
#include <sys/syscall.h>

static atomic_int n_asleep; // in barriers, of any pool

void ggml_barrier(struct ggml_threadpool * tp) {
""",
    """
        atomic_fetch_add_explicit(&tp->n_barrier_passed, 1, memory_order_seq_cst);
        return;
""": """
        atomic_fetch_add_explicit(&tp->n_barrier_passed, 1, memory_order_seq_cst);
        if (atomic_load(&n_asleep) > 0) {
            syscall(SYS_futex, &tp->n_barrier_passed, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
        }
        return;
""",
    """
    while (atomic_load_explicit(&tp->n_barrier_passed, memory_order_relaxed) == n_passed) {
        ggml_thread_cpu_relax();
    }
""": """
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
}


NAME = hashlib.sha256("".join(part for pair in _CHANGES.items() for part in pair).encode()).hexdigest()[:12]


def patch(source: Path) -> None:
    """Change the file in the folder of llama-cpp-python's source. Raises IntegrityError if it is not as expected."""
    path = source / PATCHED
    text = path.read_text("utf-8")
    for old, new in _CHANGES.items():
        if text.count(old) != 1:
            raise IntegrityError(f"{path}: is not the file that is to be changed; see {__name__}")
        text = text.replace(old, new)
    path.write_text(text, "utf-8")
