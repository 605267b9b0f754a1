"""ik_llama.cpp: a fork of llama.cpp with faster kernels for x86. Loaded out of the package ik-llama-cpp-python.

Its Python side is not imported: the library is opened beside llama.cpp's, which does not disturb it. What it does
otherwise than llama.cpp, as read in its source (`src/llama.cpp` of 8337e4cd):

- Attention may miss cells behind a gap of free ones: `llama_kv_cache_cell_max` looks at every 32nd cell alone. And a
  batch or a state needs free cells side by side. So `close_gaps` leaves no gaps.
- Flash attention ends the process (`GGML_ASSERT(S > 0)`) where a batch has tokens of several sequences.
- llama_decode returns 0 when the callback has stopped it. So Context watches the callback.
- llama_decode computes a batch with any positions; llama.cpp refuses one whose positions do not continue a sequence.
- Weights are repacked in place after they are read. They are read through the page cache.
- A cache of f32 would end the process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UnsupportedModelError, UsageError
from ..system.device import features
from .ik_api import IkApi
from .runtime import AbortCallback, ContextSettings, LoadSettings, Log, Runtime

PACKAGE = "ik-llama-cpp-python"
VERSION = "0.1.5"  # the only one whose structures are known
# Known to be right, by tests/llama/test_ik.py. Of q4_1 and q5_1, batches of several tokens give quite other logits.
TYPES = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0", "iq4_nl", "iq4_xs", "q3_k", "q2_k")
_INSTALL = "pip install 'glm-edge[ik]'"
_NEEDED = ("avx2", "fma", "f16c")  # by the published wheels
_F16 = 1  # GGML_TYPE_F16
_NO_CALLBACK = AbortCallback()


def library_path() -> Path:
    """The installed library. Raises UnsupportedModelError where ik_llama.cpp cannot be used, with what to do."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UnsupportedModelError("ik_llama.cpp runs only on x86-64 Linux here; leave out --runtime ik")
    spec = importlib.util.find_spec("ik_llama_cpp")
    try:
        found = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        found = ""
    if spec is None or not spec.submodule_search_locations or not found:
        raise UnsupportedModelError(f"ik_llama.cpp is not installed; {_INSTALL}")
    if found != VERSION:
        raise UnsupportedModelError(f"{PACKAGE} {found} is installed, and only {VERSION} is known; {_INSTALL}")
    if lacking := [name for name in _NEEDED if name not in features()]:
        raise UnsupportedModelError(f"ik_llama.cpp needs a processor with {', '.join(lacking)}; leave out --runtime ik")
    return Path(spec.submodule_search_locations[0]) / "lib" / "libllama.so"


def installed() -> bool:
    """Whether ik_llama.cpp can be used here."""
    try:
        library_path()
    except UnsupportedModelError:
        return False
    return True


class IkLlamaCpp(Runtime):
    """ik_llama.cpp, through functions of its own library."""

    name = "ik"
    title = "ik_llama.cpp"
    types = frozenset(TYPES)
    has_flash_attention = False  # it has, but see above
    takes_cells = False
    tells_aborted = False

    def __init__(self) -> None:
        log = Log(self.title)
        super().__init__(IkApi(library_path()), log)
        self.api.llama_log_set(log.callback, None)
        self.api.llama_backend_init()

    def versions(self) -> dict[str, str]:
        return {"ik_llama_cpp_python": VERSION, "system": self.api.llama_print_system_info().decode()}

    def load_model(self, path: bytes, settings: LoadSettings) -> Any:
        if settings.remote.count:
            raise UsageError("ik_llama.cpp computes on this machine alone; leave out --rpc or --runtime ik")
        params = self.api.llama_model_default_params()
        params.use_mmap = settings.load_mode == "mmap"
        params.repack_tensors = settings.repack and not params.use_mmap
        params.vocab_only = settings.vocab_only
        params.progress_callback = settings.progress
        return self.api.llama_model_load_from_file(path, params)

    def open_context(self, model: Any, settings: ContextSettings) -> Any:
        if settings.kv_type != "f16":
            raise UsageError(f"ik_llama.cpp has no cache of {settings.kv_type}, only one of f16")
        if settings.flash_attention:
            raise UsageError("ik_llama.cpp with flash attention cannot compute several answers; leave it off")
        if settings.on_node is not None:
            raise UsageError("ik_llama.cpp's products cannot be watched; leave out --runtime ik")
        params = self.api.llama_context_default_params()
        params.n_ctx = settings.n_ctx
        params.n_batch = params.n_ubatch = settings.n_batch
        params.n_seq_max = settings.n_sequences
        params.n_threads, params.n_threads_batch = settings.n_threads, settings.n_threads_batch
        params.type_k = params.type_v = _F16
        params.flash_attn = False
        if settings.abort is not None:
            params.abort_callback = settings.abort
        return self.api.llama_init_from_model(model, params)

    def close_gaps(self, context: Any, abort: Any) -> None:
        """Move the last cells into the gaps before them; a pass fills some fifty."""
        self.api.llama_set_abort_callback(context, _NO_CALLBACK, None)  # it would leave cells half moved
        while self._has_gaps(context):
            self.api.defrag(context)
            self.api.update(context)
        self.api.llama_set_abort_callback(context, abort or _NO_CALLBACK, None)

    def _has_gaps(self, context: Any) -> bool:
        view = self.api.view_init(context, 1)
        try:
            self.api.view_update(context, view)
            positions = np.ctypeslib.as_array(view.cells, shape=(view.n_cells,))
            return bool((positions[view.used_cells :] >= 0).any())
        finally:
            self.api.view_free(view)
