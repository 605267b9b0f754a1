"""What batches of these sizes take, and what they compute: is one runtime as right as another, and how much faster?

    python tests/benchmarks/quality/batches.py MODEL [--sizes 1,2,4,8,16,32,85,255] [--runs 3] [--threads 2]

Run it with each runtime, in turn, on a quiet machine. Prints a line for each size: the least seconds of a batch, and a
hash of the logits after its last tokens. Two runtimes that compute the same bits print the same hashes.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

from glm_edge.llama.context import Batch, Context
from glm_edge.llama.model import Model

_SCORED = 4  # tokens at the end of a batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sizes", default="1,2,4,8,16,32,85,255")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    model = Model(options.model, load_mode="none", repack=True, huge=True)
    context = Context(
        model,
        n_ctx=max(sizes),
        n_batch=max(sizes),
        n_sequences=1,
        n_outputs=_SCORED,
        n_threads=options.threads,
        n_threads_batch=options.threads,
    )
    batch = Batch(max(sizes))
    for n in sizes:
        taken = []
        for _ in range(options.runs):
            batch.clear()
            for i in range(n):
                batch.add((100 + 7919 * i) % model.n_vocab, i, 0, logits=i >= n - _SCORED)
            began = time.monotonic()
            context.decode(batch)
            logits = b"".join(context.logits(i).tobytes() for i in range(max(0, n - _SCORED), n))
            taken.append(time.monotonic() - began)
            context.remove(0)
        print(f"{n} {min(taken):.3f} s {hashlib.sha256(logits).hexdigest()[:16]}", flush=True)
    context.close()
    model.close()


if __name__ == "__main__":
    main()
