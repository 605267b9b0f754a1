"""Kernels that crash are left out, whatever the processor. Where it has none of them, these tests show nothing."""

import subprocess
import sys
from pathlib import Path

from glm_edge.llama import Batch, Context, Model
from glm_edge.llama_kernels import _kinds, leave_out_broken_kernels


def test_no_kernels_for_amx_are_left_and_asking_again_changes_nothing() -> None:
    before = _kinds()
    assert b"AMX" not in [name for _, name in before]
    assert leave_out_broken_kernels()
    assert _kinds() == before


def test_batch_of_several_tokens_is_computed_on_repacked_weights(tiny_q4_0: Path) -> None:
    check = f"from pathlib import Path; from {__name__} import decode; print(decode(Path({str(tiny_q4_0)!r})))"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def decode(path: Path) -> str:
    """The result of a batch of 32 tokens; in a process of its own, which it may kill."""
    model = Model(path)
    context = Context(
        model, n_ctx=256, n_batch=32, n_sequences=1, n_outputs=1, n_threads=1, n_threads_batch=1, flash_attention=False
    )
    batch = Batch(32)
    for i in range(32):
        batch.add(1000 + i, i, 0, logits=i == 31)
    result = context.decode(batch)
    batch.close()
    context.close()
    model.close()
    return result
