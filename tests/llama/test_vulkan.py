"""llama.cpp on a GPU: nothing runs there unless it was chosen, and one line where there is none.

What a GPU computes is compared where there is one; mesa's lavapipe is one for llama.cpp with GGML_VK_VISIBLE_DEVICES=0.
"""

from __future__ import annotations

import ctypes
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import UnsupportedModelError
from glm_edge.llama.installed import ll
from glm_edge.llama.library import gpus
from glm_edge.llama.model import Model
from glm_edge.llama.runtime import runtime
from glm_edge.tools.bench.tune import runtimes
from glm_edge.types import EngineConfig, Message, Request, RuntimeName, SamplingParams

gpu = pytest.mark.skipif(not gpus(), reason="llama.cpp has no Vulkan here, or finds no GPU")


def answer(model: Path, name: RuntimeName) -> str:
    request = Request((Message("user", "1+1"),), SamplingParams(0), 16)
    with closing(LlamaEngine(EngineConfig(model, n_ctx=256, runtime=name))) as engine:
        return "".join(chunk.text for chunk in engine.submit(request))


def test_llama_cpp_is_told_to_use_the_processor_alone(tiny_q4_0: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, told = ll.llama_cpp.llama_model_load_from_file, []

    def watched(path: bytes, params: Any) -> Any:
        told.append((params.n_gpu_layers, ctypes.c_void_p.from_address(params.devices).value))
        return load(path, params)

    monkeypatch.setattr(ll, "llama_model_load_from_file", watched)
    Model(tiny_q4_0).close()
    assert told == [(0, None)]  # a list that is there, and empty


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU")
def test_without_a_gpu_the_runtime_says_what_it_needs(tiny_q4_0: Path) -> None:
    assert "vulkan" not in runtimes(EngineConfig(tiny_q4_0))
    with pytest.raises(UnsupportedModelError, match="finds no GPU: that needs a driver for Vulkan"):
        runtime("vulkan")


@gpu
def test_a_gpu_gives_the_same_answer(tiny_f32: Path) -> None:
    assert "vulkan" in runtimes(EngineConfig(tiny_f32))
    assert answer(tiny_f32, "vulkan") == answer(tiny_f32, "llama")
