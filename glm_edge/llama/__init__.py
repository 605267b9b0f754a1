"""The binding of llama.cpp: no other package imports llama_cpp. Typed and small; it frees what it allocates.

    library.py  the library itself: its start, its log, its versions
    model.py    Model: weights and vocabulary
    context.py  Context: the KV cache of many sequences; Batch: what one decode call computes
    kernels.py  which of ggml's kernels are used

llama.cpp checks its own arguments. What it cannot say in a return code it logs, and our errors quote the last line.
Nothing here is thread-safe but Model.tokenize and Model.piece.
"""

import os

from ..errors import UnsupportedModelError

# llama.cpp's threads meet after every operation, some 600 times a token. Those that come first spin, by default for
# milliseconds with GCC's OpenMP. If another program has the processor of the last one, the spinning slows both down.
# 1,000 turns are enough. Beside one other busy program on two cores a token then takes 0.56 to 0.83 of the time at full
# size, and a fifth with the demo model. Alone on the machine it takes as long as before (demo: 0.5 ms, was 0.3).
# Set here, because OpenMP reads it when the library is loaded, and this file runs before any that loads it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

try:
    import llama_cpp as _llama_cpp  # noqa: F401 (here, so that every use of a runtime that does not work ends the same)
except ModuleNotFoundError as error:
    if error.name != "llama_cpp":
        raise
    raise UnsupportedModelError("llama-cpp-python is not installed; pip install llama-cpp-python") from error
except (OSError, RuntimeError) as error:  # no library; one that the system refuses, which it raises as RuntimeError
    again = "pip install --force-reinstall --no-binary :all: llama-cpp-python, or a wheel of glm-edge runtime"
    raise UnsupportedModelError(f"llama-cpp-python does not work here: {error}; {again}") from error
