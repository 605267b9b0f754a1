"""The oracle that other tests compare with agrees with the official code itself."""

from pathlib import Path

import numpy as np
import pytest

from support.engines.oracle import Oracle


@pytest.fixture(scope="module")
def oracle(tiny_checkpoint: Path) -> Oracle:
    return Oracle(tiny_checkpoint)


def test_cache_and_whole_prompt_give_the_same_logits(oracle: Oracle) -> None:
    ids = list(range(1000, 1040))
    whole, cache = oracle.logits(ids, oracle.cache()), oracle.cache()
    parts = [oracle.logits(ids[:17], cache), oracle.logits(ids[17:18], cache), oracle.logits(ids[18:], cache)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)
