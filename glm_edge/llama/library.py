"""llama.cpp's library: its start, what it logs, and its versions. Importing this module starts it.

Nothing runs on a GPU unless that was chosen (`Vulkan`). It then computes all layers; the embedding stays here. Where
there is a card, integrated GPUs are left out. A batch is not stopped in its middle, because a GPU asks no callback.
Not here: models and contexts (`model.py`, `context.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UnsupportedModelError, UsageError
from ..model.values import TensorInfo
from ..types import RuntimeName
from .installed import ll
from .kernels import device_name, devices, leave_out_broken_kernels, load_backends
from .runtime import ContextSettings, LoadSettings, Log, Runtime

_LOAD_MODES = {"none": ll.LLAMA_LOAD_MODE_NONE, "mmap": ll.LLAMA_LOAD_MODE_MMAP, "direct": ll.LLAMA_LOAD_MODE_DIRECT_IO}
_CARD, _INTEGRATED = 1, 2  # GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU; an RPC server is a card to ggml
_ALL = -1  # layers
_KV_TYPES = {"f16": ll.GGML_TYPE_F16, "f32": ll.GGML_TYPE_F32}

LOG = Log("llama.cpp")
ll.llama_log_set(LOG.callback, ctypes.c_void_p(0))
ll.llama_backend_init()
load_backends()
_MAY_REPACK = leave_out_broken_kernels()  # whether weights may be repacked for the processor's kernels


class LlamaCpp(Runtime):
    """llama.cpp, through llama-cpp-python's low-level functions."""

    name: RuntimeName = "llama"
    title = "llama.cpp"
    has_flash_attention = True
    takes_cells = True
    tells_aborted = True

    def __init__(self) -> None:
        super().__init__(ll, LOG)

    def versions(self) -> dict[str, str]:
        return {"llama_cpp_python": ll.__version__, "system": ll.llama_print_system_info().decode()}

    def load_model(self, path: bytes, settings: LoadSettings) -> Any:
        params = ll.llama_model_default_params()
        params.n_gpu_layers, placed = self.placed(settings)
        # without a list llama.cpp gives large batches to any GPU that it finds
        listed = (ctypes.c_void_p * (len(placed) + 1))(*placed, None)
        params.devices = ctypes.cast(listed, ctypes.c_void_p)
        shares = (ctypes.c_float * ll.llama_max_devices())(*settings.remote.shares)  # llama.cpp copies them
        params.tensor_split = shares
        params.load_mode = _LOAD_MODES[settings.load_mode]
        params.use_extra_bufts = settings.repack and _MAY_REPACK
        params.vocab_only = settings.vocab_only
        params.progress_callback = settings.progress
        return ll.llama_model_load_from_file(path, params)

    def placed(self, settings: LoadSettings) -> tuple[int, list[Any]]:
        """How many layers are not computed by the processor, and ggml's devices that compute them."""
        remote = settings.remote.count
        return remote, devices(b"RPC", _CARD) if remote else []

    def reading_order(self, tensors: Sequence[TensorInfo]) -> list[TensorInfo]:
        return sorted(tensors, key=lambda tensor: -tensor.n_bytes)  # stable, as llama.cpp's order is

    def open_context(self, model: Any, settings: ContextSettings) -> Any:
        params = ll.llama_context_default_params()
        params.n_ctx = settings.n_ctx
        params.n_batch = params.n_ubatch = settings.n_batch
        params.n_seq_max = settings.n_sequences
        params.n_outputs_max = max(settings.n_outputs, settings.n_sequences)  # llama.cpp reserves one for each sequence
        params.n_threads, params.n_threads_batch = settings.n_threads, settings.n_threads_batch
        params.type_k = params.type_v = _KV_TYPES[settings.kv_type]
        params.flash_attn_type = int(settings.flash_attention)
        params.kv_unified = True
        if settings.abort is not None:
            params.abort_callback = settings.abort
        if settings.on_node is not None:
            params.cb_eval = ctypes.cast(settings.on_node, ll.ggml_backend_sched_eval_callback)
        return ll.llama_init_from_model(model, params)

    def close_gaps(self, context: Any, abort: Any) -> None:
        """Nothing to do: llama.cpp takes free cells wherever they are."""


class Vulkan(LlamaCpp):
    """llama.cpp, with all layers on the GPU."""

    name = "vulkan"
    title = "llama.cpp with Vulkan"

    def __init__(self) -> None:
        super().__init__()
        self._devices = gpus()
        if not self._devices:
            raise UnsupportedModelError(
                "llama.cpp finds no GPU: that needs a driver for Vulkan and the runtime of glm-edge runtime --vulkan;"
                " leave out --runtime vulkan"
            )

    def versions(self) -> dict[str, str]:
        names = ", ".join(map(device_name, self._devices))
        versions = super().versions()
        return {**versions, "system": f"{versions['system']} Vulkan: {names}"}

    def placed(self, settings: LoadSettings) -> tuple[int, list[Any]]:
        if settings.remote.count:
            raise UsageError("the GPU computes all layers; leave out --rpc or --runtime vulkan")
        return _ALL, self._devices


def gpus() -> list[Any]:
    """ggml's devices of the GPUs: the cards, or else the integrated ones."""
    return devices(b"Vulkan", _CARD) or devices(b"Vulkan", _INTEGRATED)


def high_level(path: Path, *, n_ctx: int, n_threads: int, n_threads_batch: int) -> Any:
    """llama-cpp-python's own `Llama`, all else at its defaults: what the benchmark compares with."""
    return ll.Llama(str(path), n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads_batch, verbose=False)
