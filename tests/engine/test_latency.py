"""How many rows a batch gets: filled up to rows of four where that is measured to be quicker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glm_edge.convert.convert import convert
from glm_edge.engine.latency import LatencyModel
from glm_edge.llama.context import Batch, Context
from glm_edge.llama.model import Model


def latency(**seconds: float) -> LatencyModel:
    """With what batches of n tokens take, as n1=0.1; `prompt` is a prompt's token."""
    known = LatencyModel(rows_of_four=True)
    if prompt := seconds.pop("prompt", None):
        known.measure_prompt(1, prompt)
    for name, value in seconds.items():
        known.measure(int(name[1:]), value)
    return known


@pytest.mark.parametrize(
    ("known", "n", "rows"),
    [
        (latency(n3=0.33, n4=0.29), 3, 4),
        (latency(n2=0.22, n4=0.29), 2, 2),
        (latency(n2=0.50, n4=0.28), 2, 4),
        (latency(n4=0.29, n5=0.39), 5, 8),
        (latency(n3=0.33), 3, 4),
        (latency(), 3, 3),
        (latency(n1=0.32, n4=0.28), 1, 1),
        (latency(n4=0.28), 4, 4),
    ],
    ids=[
        "quicker", "slower", "much quicker", "the next row is tried once", "four is tried once", "nothing known",
        "a single one has another arithmetic", "full already",
    ],
)  # fmt: skip
def test_rows_of_answers_are_what_was_measured_to_be_quicker(known: LatencyModel, n: int, rows: int) -> None:
    assert known.rows(n, prompt=False) == rows


@pytest.mark.parametrize(
    ("known", "n", "rows"),
    [
        (latency(), 33, 33),
        (latency(), 34, 36),
        (latency(), 35, 36),
        (latency(), 36, 36),
        (latency(n1=0.11, prompt=0.043), 33, 33),
        (latency(n1=0.32, prompt=0.045), 33, 36),
    ],
    ids=["one left", "two left", "three left", "none left", "one is cheap", "one is dear"],
)
def test_rows_of_a_prompt(known: LatencyModel, n: int, rows: int) -> None:
    assert known.rows(n, prompt=True) == rows


def test_mapped_weights_have_no_rows_of_four() -> None:
    known = LatencyModel()
    known.measure(3, 1.0)
    known.measure(4, 0.1)
    assert known.rows(3, prompt=False) == known.rows(3, prompt=True) == 3


def test_other_way_is_tried_again_and_then_taken_where_things_have_changed() -> None:
    known = latency(n3=0.33, n4=0.29)
    taken = []
    for _ in range(600):
        rows = known.rows(3, prompt=False)
        taken.append(rows)
        known.measure(rows, {3: 0.2, 4: 0.29}[rows])
    assert taken[0] == 4
    assert taken[-1] == 3
    assert 1 <= taken[300:].count(4) <= 3


@pytest.fixture(scope="module")
def small_edge(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(small_checkpoint, tmp_path_factory.mktemp("gguf") / "small-edge.gguf", type="edge").path


@pytest.mark.parametrize(
    ("model", "within"), [("tiny_f32", 0.0), ("tiny_q4_0", 0.0), ("small_edge", 1e-5)], ids=["f32", "q4_0", "edge"]
)
@pytest.mark.parametrize(("n", "full"), [(2, 4), (3, 4), (34, 36), (35, 36)])
def test_rows_that_nobody_asked_for_change_no_logit_by_more_than_a_rounding(
    model: str, within: float, n: int, full: int, request: pytest.FixtureRequest
) -> None:
    loaded = Model(request.getfixturevalue(model))
    context = Context(loaded, n_ctx=256, n_batch=64, n_sequences=1, n_outputs=1, n_threads=1, n_threads_batch=1)
    batch = Batch(64)
    found = []
    for rows in (n, full):
        batch.clear()
        for i in range(rows):
            batch.add(10 + 7 * i, i, 0, logits=i == n - 1)
        context.decode(batch)
        found.append(context.logits(n - 1).copy())
        context.remove(0)
    context.close()
    loaded.close()
    assert np.abs(found[0] - found[1]).max() <= within * np.abs(found[0]).max()
