"""Which of ggml's kernels are used: the library for this processor, and all kinds in it but GCC's for Intel's AMX.

A portable build of llama.cpp has a library of kernels for every kind of processor, and somebody has to load the best.
That is asked of the copy of ggml that libllama uses: a wheel has no links, so a second copy lies beside it.

ggml keeps weights in the layout of the first kind of kernels that can use them. The AMX kernels load a tile
configuration of 64 bytes. GCC's own intrinsic says that only 8 of them are read, so GCC optimises the writing of the
others away, and the first batch of two tokens ends in SIGSEGV, whatever the model (seen with GCC 12 and llama.cpp
0c1e57098; ggml-org/llama.cpp issue 20824, pull request 26954). The next kind, CPU_REPACK, is what processors without
AMX use.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from ..model.ggml import RUNTIME_MARKER, library_folder
from ..system.device import features
from .installed import ll

_BROKEN = b"AMX"
_BUILT_BY_CLANG = b"clang version"  # what clang leaves in a library
_PROCESSOR = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_Kinds = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)  # ggml_backend_dev_get_extra_bufts_t


def load_backends() -> None:
    """Load the kernels for this processor, where llama.cpp comes with several libraries of them."""
    if not processor():
        function("ggml_backend_load_all_from_path", None, ctypes.c_char_p)(os.fsencode(library_folder()))


def leave_out_broken_kernels() -> bool:
    """Take the AMX kernels out of ggml's list. False where that has no effect: then no kind of the list may be used.

    ggml makes the list once and hands out a pointer to it (`ggml-cpu.cpp`), so a change in it stays.
    """
    if sys.platform != "linux" or _built_by_clang():  # GCC and AMX meet nowhere else
        return True
    usable = [address for address, name in kernel_kinds() if name != _BROKEN]
    if len(usable) < len(kernel_kinds()):
        for index, address in enumerate([*usable, None]):
            _list()[index] = address
    return len(usable) == len(kernel_kinds())


def amx_unused() -> bool:
    """Whether the processor has AMX and these kernels make no use of it."""
    return "amx_int8" in features() and _BROKEN not in {name for _, name in kernel_kinds()}


def kernel_kinds() -> list[tuple[int, bytes]]:
    """(address, name) of each kind that is not ggml's ordinary layout, in the order ggml tries them."""
    name_of = function("ggml_backend_buft_name", ctypes.c_char_p, ctypes.c_void_p)
    found: list[tuple[int, bytes]] = []
    kinds = _list()
    while kinds and (address := kinds[len(found)]):
        found.append((address, name_of(address)))
    return found


def _list() -> Any:
    """ggml's array of pointers, the last one null; a null pointer where it has none."""
    device = processor()
    if not device:
        return None
    registry = function("ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)(device)
    getter = of_backend(registry, b"ggml_backend_dev_get_extra_bufts")
    return _Kinds(getter)(device) if getter else None


def _built_by_clang() -> bool:
    """Whether the kernels come from clang, whose intrinsic is right."""
    folder = library_folder()
    if (folder / RUNTIME_MARKER).exists():
        return True
    return any(_BUILT_BY_CLANG in path.read_bytes() for path in folder.glob("libggml-cpu.*"))


def processor() -> Any:
    """ggml's device of the processor; null while no library of kernels is loaded."""
    return function("ggml_backend_dev_by_type", ctypes.c_void_p, ctypes.c_int)(_PROCESSOR)


def devices(backend: bytes, kind: int) -> list[Any]:
    """ggml's devices of a backend and of a kind.

    Args:
        backend: the beginning of its name, as of "RPC[HOST:PORT]".
        kind: a GGML_BACKEND_DEVICE_TYPE.
    """
    device = function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    kind_of = function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    registry_of = function("ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)
    name_of = function("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    found = map(device, range(function("ggml_backend_dev_count", ctypes.c_size_t)()))
    return [one for one in found if kind_of(one) == kind and name_of(registry_of(one)).startswith(backend)]


def device_name(device: Any) -> str:
    """As its driver names it."""
    return str(function("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)(device).decode())


def of_backend(registry: Any, name: bytes) -> Any:
    """The address of a function that a backend has and ggml's own interface has not; null where it has none."""
    find = function("ggml_backend_reg_get_proc_address", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
    return find(registry, name)


def function(name: str, result: type | None, *arguments: Any) -> Any:
    """A function of ggml, by its name and types: of the copy that libllama uses."""
    found = getattr(ll.llama_cpp._lib, name)
    found.restype, found.argtypes = result, arguments
    return found
