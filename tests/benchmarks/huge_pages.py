"""Compares loading, prefill and decode of weights in huge pages with weights in small ones, repacked or mapped.

    python tests/benchmarks/huge_pages.py MODEL.gguf --rounds 5
    python tests/benchmarks/huge_pages.py MODEL.gguf --mapped

Two processes have the model loaded, one with each kind of pages, so memory must hold it twice (once if mapped). They
compute in turn, every second round the other way round: a bare llama_decode loop with a context of 8192 tokens.
Repacked: with and without asking (`--huge-pages auto|off`), which shows something only where
/sys/kernel/mm/transparent_hugepage/enabled says madvise. Mapped: pages as the file system gives them, and with huge
pages forbidden to the process (prctl). `--loads N` loads N times more, in turn, and only times it.
Prints a line for each measurement, then medians, and the medians of ratios within a round.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path

from glm_edge.llama import huge_pages
from glm_edge.llama.model import Model
from glm_edge.tools.bench.bare import Bare
from glm_edge.types import EngineConfig

_SET_THP_DISABLE = 41  # PR_SET_THP_DISABLE of linux/prctl.h
_PROMPT, _ANSWER = 64, 6  # tokens of a round
_GIB = 1 << 30


class Side:
    """One process with the model, in one kind of pages."""

    def __init__(self, path: Path, mapped: bool, huge: bool, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_side, args=(theirs, path, mapped, huge, threads), daemon=True)
        self._process.start()
        self.load_s, self.context_s, self.huge_bytes = self._pipe.recv()
        pages = "huge" if huge else "small"
        text = f"load {self.load_s:.2f} s, context {self.context_s:.2f} s, {self.huge_bytes / _GIB:.2f} GiB huge"
        print(f"{pages} pages: {text}", flush=True)

    def measure(self) -> tuple[float, float]:
        """Tokens per second of prefill and decode."""
        self._pipe.send(True)
        prefill_s, decode_s = self._pipe.recv()
        return _PROMPT / prefill_s, _ANSWER / decode_s

    def close(self) -> None:
        self._pipe.send(False)
        self._process.join()


def _side(pipe: Connection, path: Path, mapped: bool, huge: bool, threads: int) -> None:
    if mapped and not huge and ctypes.CDLL(None).prctl(_SET_THP_DISABLE, 1, 0, 0, 0):
        raise OSError("prctl cannot forbid huge pages")
    Model(path, vocab_only=True).close()  # the library is loaded before the clock starts
    began = time.perf_counter()
    model = Model(path, load_mode="mmap" if mapped else "direct", repack=not mapped, huge=huge)
    loaded = time.perf_counter()
    loop = Bare(model, EngineConfig(path), n_ctx=8192, n_batch=128, threads=(threads, threads))
    pipe.send((loaded - began, time.perf_counter() - loaded, huge_pages.bytes_in_use()))
    while pipe.recv():
        loop.cut(0)
        pipe.send((loop.prefill(_PROMPT), loop.decode(_ANSWER)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--mapped", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loads", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    def side(huge: bool) -> Side:
        return Side(options.file, options.mapped, huge, options.threads)

    loads: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.loads):
        for huge in (False, True):
            one = side(huge)
            loads[huge].append(one.load_s)
            one.close()
    sides = {huge: side(huge) for huge in (False, True)}
    for huge, one in sides.items():
        loads[huge].append(one.load_s)
        one.measure()  # touches all once
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for number in range(options.rounds):
        for huge in (False, True)[:: -1 if number % 2 else 1]:
            found[huge].append(sides[huge].measure())
        print(
            "small, huge: "
            + "; ".join(
                f"{name} {found[False][-1][i]:.2f}, {found[True][-1][i]:.2f}"
                for i, name in enumerate(("prefill", "decode"))
            ),
            flush=True,
        )
    for one in sides.values():
        one.close()
    _print("load, s", loads[False], loads[True])
    for i, name in enumerate(("prefill", "decode")):
        _print(f"{name}, tokens/s", [run[i] for run in found[False]], [run[i] for run in found[True]])


def _print(name: str, small: list[float], huge: list[float]) -> None:
    ratio = statistics.median(b / a for a, b in zip(small, huge, strict=True))
    print(f"{name}: small {statistics.median(small):.2f}, huge {statistics.median(huge):.2f}, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
