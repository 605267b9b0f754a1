"""Reading a model's file ahead of the runtime: the same weights, and nothing that goes on afterwards."""

from __future__ import annotations

import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.llama import model
from glm_edge.llama.context import Batch, Context
from glm_edge.llama.read_ahead import ReadAhead
from glm_edge.model.gguf import read_gguf

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems read directly")


def logits(path: Path) -> NDArray[np.float32]:
    with closing(model.Model(path, load_mode="direct")) as loaded:
        context = Context(
            loaded, n_ctx=64, n_batch=8, n_sequences=1, n_outputs=1, n_threads=1, n_threads_batch=1, kv_type="f32"
        )
        with closing(context):
            batch = Batch(8)
            for place in range(3):
                index = batch.add(1000 + place, place, 0, logits=place == 2)
            context.decode(batch)
            return context.logits(index).copy()


def test_a_file_that_is_read_ahead_has_the_same_logits(tiny_q4_0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = logits(tiny_q4_0)
    monkeypatch.setattr(model, "of_use", lambda file: True)
    assert (logits(tiny_q4_0) == before).all()


@pytest.mark.parametrize("done", [(), (0.0,), (0.0, 0.5), (0.0, 0.3, 1.0)], ids=["refused", "stopped", "half", "whole"])
def test_its_threads_end_with_the_load(tiny_q4_0: Path, done: tuple[float, ...]) -> None:
    file = read_gguf(tiny_q4_0)
    with ReadAhead(file, list(file.tensors), window=1) as ahead:
        for share in done:
            if not share:
                ahead.allocated()
            ahead.loaded(share)
    assert not {"read ahead", "pages"} & {thread.name for thread in threading.enumerate()}


def test_a_file_that_is_gone_is_the_runtimes_matter(tiny_q4_0: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.gguf"
    path.write_bytes(tiny_q4_0.read_bytes())
    file = read_gguf(path)
    path.unlink()
    with ReadAhead(file, list(file.tensors)) as ahead:
        ahead.loaded(1.0)
