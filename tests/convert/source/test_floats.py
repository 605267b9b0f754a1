"""float16 and bfloat16 become float32 exactly, by the fast way and the portable one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from glm_edge.convert.source.floats import to_float32

EVERY = np.arange(1 << 16, dtype=np.uint16)
WIDE = {"f16": EVERY.view(np.float16).astype(np.float32), "bf16": (EVERY.astype(np.uint32) << 16).view(np.float32)}


def stored(dtype: str) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
    return EVERY.view(np.float16) if dtype == "f16" else EVERY


@pytest.mark.parametrize("dtype", WIDE)
def test_every_value_is_exact(dtype: str) -> None:
    assert np.array_equal(to_float32(dtype, stored(dtype)), WIDE[dtype], equal_nan=True)


@pytest.mark.parametrize("dtype", WIDE)
def test_shape_and_gaps_are_kept(dtype: str) -> None:
    values = stored(dtype).reshape(256, 256)
    wide = WIDE[dtype].reshape(256, 256)
    assert np.array_equal(to_float32(dtype, values), wide, equal_nan=True)
    assert np.array_equal(to_float32(dtype, values[::3, 1::2]), wide[::3, 1::2], equal_nan=True)
    assert to_float32(dtype, values[:0]).shape == (0, 256)


def test_float32_is_left_as_it_is() -> None:
    values = np.linspace(-1, 1, 9, dtype=np.float32)
    assert to_float32("f32", values) is values


def test_it_works_without_the_library() -> None:
    code = (
        "import numpy as np; from glm_edge.convert.source.floats import to_float32;"
        "print(to_float32('f16', np.array([1.5], np.float16)), to_float32('bf16', np.array([0x3fc0], np.uint16)))"
    )
    environment = {"LLAMA_CPP_LIB_PATH": "nowhere", "SYSTEMROOT": "C:\\Windows"}  # Windows needs the second to start
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[1.5] [1.5]\n"
