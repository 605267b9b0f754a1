"""llama.cpp's library: its start, what it logs, and its versions. Importing this module starts it.

Not here: models and contexts (`model.py`, `context.py`).
"""

from __future__ import annotations

import ctypes
from collections import deque
from pathlib import Path
from typing import Any

import llama_cpp as ll

from .kernels import leave_out_broken_kernels, load_backends

_LOGGED = (3, 4)  # GGML_LOG_LEVEL_WARN and ERROR; 5 continues a line of any level
_log: deque[str] = deque(maxlen=8)  # llama.cpp's warnings and errors, newest last


@ll.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: object) -> None:
    if level in _LOGGED and (line := text.decode("utf-8", "replace").strip()):
        _log.append(line)


def clear_log() -> None:
    """Forget what was logged: the next error is about what is called next."""
    _log.clear()


def logged_allocation_failure() -> bool:
    """Whether an allocation failed, which llama.cpp tells in its log alone."""
    return any("alloc" in line for line in _log)


def log_excerpt() -> str:
    """What llama.cpp logged last, for the end of an error message."""
    return f" (llama.cpp: {_log[-1]})" if _log else ""


ll.llama_log_set(_on_log, ctypes.c_void_p(0))
ll.llama_backend_init()
load_backends()
MAY_REPACK = leave_out_broken_kernels()  # whether weights may be repacked for the processor's kernels


def high_level(path: Path, *, n_ctx: int, n_threads: int, n_threads_batch: int) -> Any:
    """llama-cpp-python's own `Llama`, all else at its defaults: what the benchmark compares with."""
    return ll.Llama(str(path), n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads_batch, verbose=False)


def versions() -> dict[str, str]:
    """What runs underneath: for the profile's key, the prefix cache's identity and benchmark results."""
    return {"llama_cpp_python": ll.__version__, "system": ll.llama_print_system_info().decode()}
