"""A model that does not fit the memory: the server says how much is needed and ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from glm_edge.convert.convert import convert
from support.checkpoints.small_checkpoint import CONFIG, write_checkpoint

# KiB of addresses. The C library sets 64 MiB of them aside for each of many threads, so a server has to have more of
# these than it would ever use of memory, and the context asked for below has to need still more.
LIMIT = 2_500_000


@pytest.mark.case("O10")
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory with ulimit -v")
@pytest.mark.parametrize("where", ["", "--in-process"], ids=["worker", "in-process"])
def test_too_little_memory_is_exit_7_with_what_is_needed_and_there(tmp_path: Path, where: str) -> None:
    checkpoint = write_checkpoint(tmp_path / "model", config={**CONFIG, "seq_length": 1 << 20})
    model = convert(checkpoint, tmp_path / "model.gguf", type="q8_0").path
    options = f'serve --model "{model}" --ctx {1 << 20} --slots 64 --queue 0 --port 0 --threads 1 --no-cache {where}'
    with subprocess.Popen(
        ["sh", "-c", f'ulimit -v {LIMIT}; exec "{sys.executable}" -m glm_edge {options}'],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    ) as server:
        try:
            _, said = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 7, said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.search(r"needs \d+\.\d\d GiB.* \d+\.\d\d GiB are available", error), error
    assert "serving" not in said
