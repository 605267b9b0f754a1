"""Runtime: a library that runs models, as far as this package needs it, and `runtime()`, which loads one by its name.

Model and Context are the same for all. They call the library's functions under llama.cpp's names (`Runtime.api`), and
the methods here where the libraries differ. Who uses Model and Context need not know which one it is.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ..model.values import TensorInfo
from ..types import LoadMode, RuntimeName

_LOGGED = (3, 4)  # GGML_LOG_LEVEL_WARN and ERROR; 5 continues a line of any level
_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
ProgressCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_float, ctypes.c_void_p)
AbortCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p)
EvalCallback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)


class Log:
    """A library's last warnings and errors.

    Args:
        name: of the library, as messages name it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: deque[str] = deque(maxlen=8)  # newest last
        self.callback = _LogCallback(self._on_line)  # for llama_log_set

    def _on_line(self, level: int, text: bytes, _: object) -> None:
        if level in _LOGGED and (line := text.decode("utf-8", "replace").strip()):
            self._lines.append(line)

    def clear(self) -> None:
        """Forget what was logged: the next error is about what is called next."""
        self._lines.clear()

    @property
    def allocation_failed(self) -> bool:
        """Whether an allocation failed, which llama.cpp tells in its log alone."""
        return any("alloc" in line for line in self._lines)

    @property
    def excerpt(self) -> str:
        """What was logged last, for the end of an error message."""
        return f" ({self._name}: {self._lines[-1]})" if self._lines else ""


@dataclass(frozen=True)
class RemoteLayers:
    """The last layers of a model, which RPC servers compute.

    Args:
        count: how many; the model's output matrix counts as one more layer.
        shares: what part of them each server gets, in any unit, in the order of `rpc.add_servers`.
    """

    count: int = 0
    shares: tuple[float, ...] = ()


NONE_REMOTE = RemoteLayers()


@dataclass(frozen=True)
class LoadSettings:
    """How a model is loaded; see Model."""

    load_mode: LoadMode
    repack: bool
    vocab_only: bool
    progress: Any  # a ProgressCallback; it must live as long as the load
    remote: RemoteLayers


@dataclass(frozen=True)
class ContextSettings:
    """The settings of a context; see Context."""

    n_ctx: int
    n_batch: int
    n_sequences: int  # the spare one included
    n_outputs: int
    n_threads: int
    n_threads_batch: int
    kv_type: Literal["f16", "f32"]
    flash_attention: bool
    abort: Any  # an AbortCallback, or None; it must live as long as the context
    on_node: Any = None  # an EvalCallback, or None; it too


class Runtime(ABC):
    """A library that runs models.

    Args:
        api: its functions under llama.cpp's names and with llama.cpp's arguments, and its `llama_batch`.
        log: where its callback writes.
    """

    name: RuntimeName
    title: str  # as messages name it
    types: frozenset[str] | None = None  # of tensors that it is known to compute rightly; None: all
    has_flash_attention: bool
    takes_cells: bool  # whether `cell_state.py` writes states as this library does
    tells_aborted: bool  # whether llama_decode returns 2 when the callback has stopped it

    def __init__(self, api: Any, log: Log) -> None:
        self.api = api
        self.log = log

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """What runs: for the profile's key, the prefix cache's identity and benchmark results."""

    @abstractmethod
    def load_model(self, path: bytes, settings: LoadSettings) -> Any:
        """A model's handle, or nothing where it cannot be loaded."""

    def reading_order(self, tensors: Sequence[TensorInfo]) -> list[TensorInfo]:
        """The tensors as `load_model` reads them, if it does not map them."""
        return list(tensors)

    @abstractmethod
    def open_context(self, model: Any, settings: ContextSettings) -> Any:
        """A context's handle, or nothing where there is no memory for it."""

    @abstractmethod
    def close_gaps(self, context: Any, abort: Any) -> None:
        """Called between the removal of cells and the next use of the cache.

        Args:
            abort: the context's callback, or None.
        """


@cache
def runtime(name: RuntimeName = "llama") -> Runtime:
    """The runtime, loaded once. Raises UnsupportedModelError where it is not installed or does not work here."""
    make: Callable[[], Runtime]
    if name == "ik":
        from .ik import IkLlamaCpp as make
    elif name == "vulkan":
        from .library import Vulkan as make
    else:
        from .library import LlamaCpp as make
    return make()
