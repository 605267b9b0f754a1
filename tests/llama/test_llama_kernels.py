"""Kernels that crash are left out, whatever the processor. Where it has none of them, these tests show nothing."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from glm_edge.llama.kernels import kernel_kinds, leave_out_broken_kernels
from glm_edge.model.ggml import RUNTIME_MARKER, library_folder
from support.paths import SUPPORT


@pytest.mark.skipif((library_folder() / RUNTIME_MARKER).exists(), reason="clang built this llama.cpp: its AMX works")
def test_no_kernels_for_amx_are_left_and_asking_again_changes_nothing() -> None:
    import_module("glm_edge.llama.library")  # which leaves them out
    before = kernel_kinds()
    assert b"AMX" not in [name for _, name in before]
    assert leave_out_broken_kernels()
    assert kernel_kinds() == before


def test_batch_of_several_tokens_is_computed_on_repacked_weights(tiny_q4_0: Path) -> None:
    code = "import sys; from pathlib import Path; from support.engines.child_functions import decode; "
    command = [sys.executable, "-c", f"{code}print(decode(Path(sys.argv[1])))", tiny_q4_0]
    environment = os.environ | {"PYTHONPATH": str(SUPPORT.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


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
