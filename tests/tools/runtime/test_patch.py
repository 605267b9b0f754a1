"""The changes to llama.cpp's barrier and AMX loop: applied to what they were written for, refused elsewhere; and the
barrier is one. Whether AMX gives the same bits: `tests/benchmarks/quality/batches.py`, on a processor that has it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glm_edge.errors import IntegrityError
from glm_edge.tools.runtime.patch import PANELS, PATCHED, PATCHED_AMX, patch

# The function as in llama.cpp 0c1e57098, without OpenMP and TSAN.
BARRIER = """\
void ggml_barrier(struct ggml_threadpool * tp) {
    int n_threads = atomic_load_explicit(&tp->n_graph, memory_order_relaxed) & GGML_THREADPOOL_N_THREADS_MASK;
    if (n_threads == 1) {
        return;
    }

    int n_passed = atomic_load_explicit(&tp->n_barrier_passed, memory_order_relaxed);

    // enter barrier (full seq-cst fence)
    int n_barrier = atomic_fetch_add_explicit(&tp->n_barrier, 1, memory_order_seq_cst);

    if (n_barrier == (n_threads - 1)) {
        // last thread
        atomic_store_explicit(&tp->n_barrier, 0, memory_order_relaxed);

        // exit barrier (full seq-cst fence)
        atomic_fetch_add_explicit(&tp->n_barrier_passed, 1, memory_order_seq_cst);
        return;
    }

    // wait for other threads
    while (atomic_load_explicit(&tp->n_barrier_passed, memory_order_relaxed) == n_passed) {
        ggml_thread_cpu_relax();
    }

    atomic_thread_fence(memory_order_seq_cst);
}
"""
BEFORE = """\
#define _GNU_SOURCE
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#define GGML_THREADPOOL_N_THREADS_MASK 0xffff
struct ggml_threadpool { atomic_int n_graph, n_barrier, n_barrier_passed; };
static void ggml_thread_cpu_relax(void) {}

"""
# N threads meet TURNS times; each looks whether the others did what they had to before. Some come late on purpose.
AFTER = """
enum { N = 4, TURNS = 20000 };
static struct ggml_threadpool pool = { N };
static volatile int done[N];
static void * work(void * at) {
    long ith = (long) at;
    for (int turn = 1; turn <= TURNS; turn++) {
        if (turn % 500 == 100 * ith) { usleep(1000); }
        done[ith] = turn;
        ggml_barrier(&pool);
        for (int i = 0; i < N; i++) { if (done[i] < turn) { puts("too early"); exit(1); } }
        ggml_barrier(&pool);
    }
    return NULL;
}
int main(void) {
    pthread_t threads[N];
    for (long i = 0; i < N; i++) { pthread_create(&threads[i], NULL, work, (void *) i); }
    for (int i = 0; i < N; i++) { pthread_join(threads[i], NULL); }
    puts("together");
}
"""
# What is changed of amx/mmq.cpp.
AMX = (
    """\
#include <algorithm>
#include <type_traits>
"""
    + "            const char * b_ptr = B + PACKED_INDEX(col, i, KB, TILE_SIZE);\n\n" * 7
    + """\
} // anonymous namespace

    return desired_wsize;

    // pointer to work space, used convert A from float to quantized type
"""
)


def source(folder: Path, text: str, amx: str = AMX) -> Path:
    path = folder / PATCHED
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (folder / PATCHED_AMX).parent.mkdir()
    (folder / PATCHED_AMX).write_text("\n" + amx)
    return path


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux's futex and a C compiler")
def test_threads_meet_and_those_that_wait_long_sleep(tmp_path: Path) -> None:
    path = source(tmp_path, BEFORE + BARRIER + AFTER)
    patch(tmp_path)
    program = tmp_path / "meet"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-pthread", str(path), "-o", str(program)], check=True)
    assert subprocess.run([program], capture_output=True, text=True, timeout=300, check=False).stdout == "together\n"


@pytest.mark.parametrize("text", ["", BARRIER.replace("n_passed) {", "n_passed) {;"), BARRIER * 2])
def test_another_source_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = source(tmp_path, "\n" + text)
    with pytest.raises(IntegrityError, match="is not the file"):
        patch(tmp_path)
    assert path.read_text() == "\n" + text


def test_amx_multiplies_several_rows_by_the_functions_beside_it(tmp_path: Path) -> None:
    source(tmp_path, "\n" + BARRIER)
    patch(tmp_path)
    changed = (tmp_path / PATCHED_AMX).read_text()
    assert (tmp_path / PATCHED_AMX).with_name("amx_panels.h").read_text() == PANELS.read_text()
    assert changed.index('#include "amx_panels.h"') < changed.index("panel_work(dst)")
    assert changed.index("panel_mul_mat(params, dst)") < changed.index("// pointer to work space")
    assert changed.count("_mm_prefetch") == 7


def test_neither_file_is_changed_where_one_is_another(tmp_path: Path) -> None:
    path = source(tmp_path, "\n" + BARRIER, AMX + AMX)
    with pytest.raises(IntegrityError, match=r"mmq\.cpp: is not the file"):
        patch(tmp_path)
    assert path.read_text() == "\n" + BARRIER
