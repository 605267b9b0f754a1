"""What tests run in a process of its own, which it may kill: functions of a module, so that the process finds them."""

from __future__ import annotations

import os
from pathlib import Path

from glm_edge.errors import OutOfMemoryError


def out_of_memory(tell: object) -> None:
    raise OutOfMemoryError("too large")


def die(tell: object) -> None:
    os._exit(9)


def decode(path: Path) -> str:
    """The result of a batch of 32 tokens of the model at `path`."""
    from glm_edge.llama.context import Batch, Context
    from glm_edge.llama.model import Model

    model = Model(path)
    context = Context(
        model, n_ctx=256, n_batch=32, n_sequences=1, n_outputs=1, n_threads=1, n_threads_batch=1, flash_attention=False
    )
    batch = Batch(32)
    for i in range(32):
        batch.add(1000 + i, i, 0, logits=i == 31)
    result = context.decode(batch)
    context.close()
    model.close()
    return result
