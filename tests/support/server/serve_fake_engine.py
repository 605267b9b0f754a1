"""A process that serves a scripted engine, as `glm-edge serve` serves a model: for tests of signals and exit codes.

Usage: serve_fake_engine.py SCENARIO [--grace SECONDS] [--worker] [--patience SECONDS] [--host ADDRESS --key KEY].
The scenario decides what loading and answering do; with --worker it does it in a process of its own, which may be
silent for --patience. With a host it listens on the usual port, believes a proxy of that address, and answers with it:
once, and to "long" for some seconds; with --full-size SPEED as slowly as a full-size model, SPEED times as fast.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from glm_edge.api.access.keys import Keys
from glm_edge.api.config import ServeConfig
from glm_edge.api.serve import serve
from glm_edge.errors import GlmEdgeError, IntegrityError, OutOfMemoryError
from glm_edge.types import Engine, Request
from glm_edge.worker import Worker
from support.engines.crashing_engines import obeys
from support.engines.fake_engine import FakeEngine, Script, Step
from support.engines.full_size import FullSize


class _Stuck(FakeEngine):
    """An engine that does not close."""

    def close(self) -> None:
        time.sleep(3600)


class _Failing(FakeEngine):
    """An engine that fails for good with its first request."""

    @property
    def failure(self) -> GlmEdgeError | None:
        return OutOfMemoryError("no memory for the cache") if self.requests else None

    @property
    def ready(self) -> bool:
        return self.failure is None

    @property
    def ended(self) -> bool:
        return not self.ready


def _answer(script: Script, slots: int = 4) -> Callable[[], Engine]:
    return lambda: FakeEngine(script, slots=slots)


def _at(host: str, digest: str, speed: float | None) -> Engine:
    def script(request: Request) -> list[Step]:
        return [host, 0.05] * (100 if request.messages[-1].content == "long" else 1)

    engine = FakeEngine(script if speed is None else FullSize(host, speed), waiting=252)
    engine.info = replace(engine.info, digest=digest)
    return engine


def _spoilt() -> Engine:
    raise IntegrityError("model.gguf: not the file it was")


def _bug() -> Engine:
    raise KeyError("a bug in loading")


def _never() -> Engine:
    threading.Event().wait()
    raise AssertionError


LOADERS: dict[str, Callable[[], Engine]] = {
    "quick": _answer(["你好"]),
    "second": _answer(["a", 0.7, "b"]),
    "one-slot": _answer([0.3, "a", 0.7, "b"], slots=1),
    "endless": _answer(["a", threading.Event(), "b"]),
    "stuck": lambda: _Stuck(["a", threading.Event()]),
    "failing": lambda: _Failing([OutOfMemoryError("no memory for the cache")]),
    "spoilt": _spoilt,
    "bug": _bug,
    "loading": _never,
    "obeys": obeys,
}


def make(scenario: str) -> Engine:
    return LOADERS[scenario]()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", choices=LOADERS)
    parser.add_argument("--grace", type=float, default=30)
    parser.add_argument("--patience", type=float, default=60)
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--host")
    parser.add_argument("--key")
    parser.add_argument("--digest", default="fa" * 32)
    parser.add_argument("--full-size", type=float, metavar="SPEED")
    options = parser.parse_args()
    from support.server.serve_fake_engine import make  # by a name that a child finds, too

    load = partial(make, options.scenario)
    try:
        engine = partial(Worker, load, patience=options.patience) if options.worker else load
        config = ServeConfig(port=0, grace=options.grace)
        if options.host:
            keys = Keys.collect([options.key], None, {})
            proxies = frozenset({options.host})
            config = ServeConfig(options.host, keys=keys, proxies=proxies, grace=options.grace)
            engine = partial(_at, options.host, options.digest, options.full_size)
        serve(engine, config)
    except GlmEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
