"""Kernels that crash are left out, whatever the processor. Where it has none of them, these tests show nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glm_edge.llama.context import Batch, Context
from glm_edge.llama.kernels import _kinds, leave_out_broken_kernels
from glm_edge.llama.model import Model


def test_no_kernels_for_amx_are_left_and_asking_again_changes_nothing() -> None:
    before = _kinds()
    assert b"AMX" not in [name for _, name in before]
    assert leave_out_broken_kernels()
    assert _kinds() == before


def test_batch_of_several_tokens_is_computed_on_repacked_weights(tiny_q4_0: Path) -> None:
    module = Path(__file__).stem
    check = f"from pathlib import Path; from {module} import decode; print(decode(Path({str(tiny_q4_0)!r})))"
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


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)],
    ids=["default", "count given", "policy given"],
)
def test_threads_do_not_spin_for_long_unless_the_user_says_so(given: dict[str, str], found: str | None) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    # OpenMP shows what it was told at the moment it was loaded
    check = "import os, glm_edge.llama.library; print(os.environ.get('GOMP_SPINCOUNT'))"
    env |= given | {"OMP_DISPLAY_ENV": "verbose"}
    done = subprocess.run([sys.executable, "-c", check], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{found}\n"
    if found is not None and "GOMP_SPINCOUNT" in done.stderr:  # GCC's OpenMP
        assert f"GOMP_SPINCOUNT = '{found}'" in done.stderr
