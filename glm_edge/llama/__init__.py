"""The binding of the runtimes: no other package imports llama_cpp. Typed and small; it frees what it allocates.

    runtime.py    Runtime: what is needed of a library that runs models, and `runtime()`, which loads one by its name
    library.py    llama.cpp, out of llama-cpp-python: its start, its log, its versions; also on a GPU
    ik.py         ik_llama.cpp, out of ik-llama-cpp-python; ik_api.py has its structures and functions
    model.py      Model: weights and vocabulary
    context.py    Context: the KV cache of many sequences; Batch: what one decode call computes
    huge_pages.py huge pages for what a runtime has allocated
    inputs.py     InputSums: what a model's matrices are multiplied with
    kernels.py    which of ggml's kernels llama.cpp uses
    rpc.py        layers of a model on other machines

A runtime checks its own arguments. What it cannot say in a return code it logs, and our errors quote the last line.
Nothing here is thread-safe but Model.tokenize and Model.piece.
"""

import os

# llama.cpp's threads meet after every operation, some 600 times a token. Those that come first spin, by default for
# milliseconds with GCC's OpenMP. If another program has the processor of the last one, the spinning slows both down.
# 1,000 turns are enough. Beside one other busy program on two cores a token then takes 0.56 to 0.83 of the time at full
# size, and a fifth with the demo model. Alone on the machine it takes as long as before (demo: 0.5 ms, was 0.3).
# Set here, because OpenMP reads it when the library is loaded, and this file runs before any that loads it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Where ggml ends the process, it runs a debugger for the stack, if there is one: seconds in which nobody is answered.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
